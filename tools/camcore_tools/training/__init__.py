"""From a folder of pictures to a trained, explained, exported classifier; shared by the commands and the demo."""
