import numpy as np
import torch
from my_network import coarse, road, street
from PIL import Image
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def read(kind, number):
    return np.array(Image.open(f"street/{kind}/{number:06d}.png"))


def prepare(frame):
    """A frame, uint8 [H, W, 3] in R, G, B -> what the networks are fed, float [3, H, W]."""
    return ((torch.from_numpy(frame) / 255 - MEAN) / STD).permute(2, 0, 1)


def train(network, loss_of):
    frames = torch.stack([prepare(read("images", number)[::2, ::2].copy()) for number in range(6)])
    labels = torch.stack([torch.from_numpy(read("labels", number)[::2, ::2].copy()) for number in range(6)])
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(30):
        chosen = [step % 6, (step + 3) % 6]
        loss = loss_of(network(frames[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(network)
    return network.eval(), average.eval()


def by_class(logits, labels):
    logits = torch.nn.functional.interpolate(logits, size=labels.shape[-2:], mode="bilinear")
    return torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=11)


def is_road(logits, labels):
    return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], (labels == 3).float())


if __name__ == "__main__":
    torch.manual_seed(0)
    network, average = train(street(), by_class)
    torch.save({"model": network.state_dict(), "ema": average.state_dict(), "epoch": 12}, "street.pth")
    torch.save(train(road(), is_road)[0], "road.pt")
    torch.save(train(coarse(), by_class)[0].state_dict(), "coarse.pth")
    torch.onnx.export(network, (torch.zeros(1, 3, 360, 480),), "theirs.onnx", dynamo=True, verbose=False)
