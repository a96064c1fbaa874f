"""Where the engines' numerics are tested: on the CPU, or the device ATOLL_TEST_DEVICE names."""

import os

import torch

DEVICE = torch.device(os.environ.get("ATOLL_TEST_DEVICE", "cpu"))
