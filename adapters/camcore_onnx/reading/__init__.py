"""Models are data: counted before they are parsed, within limits, with weights from their own folder alone."""
