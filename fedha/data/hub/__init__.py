"""Data sets of Hugging Face's ``datasets``, saved on disk: images, texts as token ids, or columns of numbers."""

from fedha.data.hub.load import hub

__all__ = ["hub"]
