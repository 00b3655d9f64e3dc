"""`CamRecorder` in the training loops that people use; each module needs its own package, and only when it is imported.

- `camcore_torch.callbacks.lightning.CamCallback` for PyTorch Lightning;
- `camcore_torch.callbacks.huggingface.CamCallback` for the Trainer of Hugging Face transformers;
- `camcore_torch.callbacks.tensorboard.TensorBoardSink` and ``add_cams`` for TensorBoard.
"""
