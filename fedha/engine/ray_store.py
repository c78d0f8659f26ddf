"""How large the store is through which Ray's processes on a machine share objects, and where it is."""

_PART_OF_MEMORY = 0.3  # Ray's own default
_PART_OF_SHARED = 0.9
_LEAST_BYTES = 80_000_000  # Ray refuses less than 75 MiB
_USEFUL_SHARED_BYTES = 2**28  # with less, files serve better; Docker gives 64 MiB unless told otherwise


def store_bytes(memory_bytes: int, shared_memory_bytes: int) -> tuple[int, bool]:
    """Choose the store's size, and whether it is in /dev/shm.

    Where /dev/shm is smaller than the store would like to be, the store shrinks to it; where that is hardly anything,
    files in the session's folder take its place, which the system keeps in memory as long as it can.

    Args:
        memory_bytes: What this process may still take.
        shared_memory_bytes: Free space of /dev/shm.
    """
    room = int(_PART_OF_MEMORY * memory_bytes)
    in_shared = shared_memory_bytes >= _USEFUL_SHARED_BYTES
    size = min(room, int(_PART_OF_SHARED * shared_memory_bytes)) if in_shared else room
    return max(_LEAST_BYTES, size), in_shared
