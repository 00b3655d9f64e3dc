"""What is seen of a training: the maps of some pictures step after step, in memory, in a folder, in a file."""

from camcore.recording.files import load_recording, save_recording
from camcore.recording.recording import Curve, Recording

__all__ = ["Curve", "Recording", "load_recording", "save_recording"]
