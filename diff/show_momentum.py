"""Paddle keeps two momenta in float32 even where everything else is float64: batch norm's and the optimizer's."""

import numpy as np
import paddle

paddle.set_default_dtype("float64")
for momentum in (0.9, 0.875):  # the second is a float32
    norm = paddle.nn.BatchNorm1D(1, momentum=momentum)
    exact, batch = 0.0, paddle.to_tensor([[1.0], [3.0]])  # whose mean is 2
    weight = paddle.create_parameter([1], "float64", default_initializer=paddle.nn.initializer.Constant(0.0))
    optimizer = paddle.optimizer.Momentum(1.0, momentum, [weight])
    place, velocity = 0.0, 0.0
    for _ in range(10):
        norm(batch)
        exact = momentum * exact + (1 - momentum) * 2
        weight.sum().backward()
        optimizer.step()
        optimizer.clear_grad()
        velocity = momentum * velocity + 1
        place -= velocity
    print(f"momentum {momentum}, after 10 steps: running mean off by {abs(norm._mean.item() / exact - 1):.1e}, "
          f"parameter by {abs(weight.item() / place - 1):.1e}; "
          f"float32({momentum}) is off by {abs(float(np.float32(momentum)) / momentum - 1):.1e}")
