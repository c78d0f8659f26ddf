"""Images in folders: ``root/domain/class/image``, decoded when they are asked for."""
