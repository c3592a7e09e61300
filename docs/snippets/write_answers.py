import numpy as np
import torch


def write_answers(path, network, prepare, frames, color_order="rgb"):
    """frames: uint8 [H, W, 3]; prepare: your own preparation, a frame -> float tensor [3, H, W]."""
    torch.backends.cudnn.allow_tf32 = False  # plain float32, also on a GPU
    device = next(network.parameters()).device
    arrays = {"color_order": np.array(color_order)}
    network.eval()
    for number, frame in enumerate(frames):
        with torch.no_grad():
            logits = network(prepare(frame)[None].to(device))
        arrays[f"frames_{number}"] = frame[None]
        arrays[f"logits_{number}"] = logits.float().cpu().numpy()
    np.savez_compressed(path, **arrays)
