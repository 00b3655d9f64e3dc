"""Which classes a picture shows, and where: with ONNX Runtime and NumPy alone, from `camcore export --embed`.

python deployed.py model.cam.onnx image.npy [maps.npy]
    image.npy: float32 (N, C, H, W) as the model takes it, or a picture, uint8 (H, W, 3), of the size that it takes
"""

import json
import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported
import numpy as np
import onnxruntime


def prepare(picture, p):
    """Pixels to what the network takes, as the file says: (1, C, H, W)."""
    pixels = picture[..., ::-1] if p["order"] == "BGR" else picture
    values = (pixels.astype(np.float32) * np.float32(p["scale"]) - np.float32(p["mean"])) / np.float32(p["std"])
    return values.transpose(2, 0, 1)[None]


def main(model, image, target=None):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items() if k[:8] == "camcore."}
    images = np.load(image)
    images = prepare(images, about["camcore.preprocess"]) if images.dtype == np.uint8 else images
    cam, classes, scores = session.run(["cam", "cam_classes", "cam_scores"], {session.get_inputs()[0].name: images})
    for n, t in np.ndindex(classes.shape):
        cell = np.array(np.unravel_index(cam[n, t].argmax(), cam.shape[2:]))
        y, x = (2 * cell + 1) * images.shape[2:] // (2 * np.array(cam.shape[2:]))  # the middle of that cell
        name = about["camcore.labels"][classes[n, t]] if "camcore.labels" in about else f"class {classes[n, t]}"
        print(f"{name} ({classes[n, t]}), score {scores[n, t]:g}, peak at pixel {x}, {y}")
    if target:
        np.save(target, cam)


if __name__ == "__main__":
    main(*sys.argv[1:])
