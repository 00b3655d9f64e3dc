"""From a folder of pictures to a trained, explained, exported classifier; shared by ``train``, ``evaluate`` and ``demo``."""
