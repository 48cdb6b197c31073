"""What can go wrong between us and the kernel's tables."""


class TableError(Exception):
    """Base of this package's errors; the message is a sentence."""


class RefusedError(TableError):
    """The kernel or nft refused one batch. Nothing of it was applied."""


class DeviceError(TableError):
    """nft could not be run, or nobody knows whether it finished: read the table again before trusting a memory."""


class ForeignTableError(TableError):
    """A table of our name holds rules that are not ours; we neither replace nor delete it."""
