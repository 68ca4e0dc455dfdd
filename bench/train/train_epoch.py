"""One epoch of the MNIST network on one thread, as one writes it in Python: prints "seconds S loss L"."""
import sys
import time

import torch
from torch import nn
from torch.nn import functional

folder = sys.argv[1]
torch.set_num_threads(1)
torch.manual_seed(7)


def idx(name, header):
    with open(f"{folder}/{name}", "rb") as file:
        return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)[header:]


x = idx("train-images-idx3-ubyte", 16).reshape(-1, 784)
y = idx("train-labels-idx1-ubyte", 8).long()
model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.001, eps=1e-7)
model.train()

begun = time.perf_counter()
total = correct = 0.0
for rows in torch.randperm(len(x)).split(32):
    batch, labels = x[rows].float() / 255, y[rows]
    logits = model(batch)
    loss = functional.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    total += loss.item() * len(rows)
    correct += (logits.argmax(1) == labels).sum().item()
print(f"seconds {time.perf_counter() - begun:.3f} loss {total / len(x):.4f}")
