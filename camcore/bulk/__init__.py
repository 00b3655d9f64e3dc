"""Maps of hundreds of thousands of pictures in one folder: sharded, restartable, and read back one by one."""

from camcore.bulk.reading import BulkPicture, BulkResults, read

__all__ = ["BulkPicture", "BulkResults", "read"]
