import asyncio
from contextlib import aclosing

import fcn_deploy
from fcn_deploy.camera import Pipeline


async def find_a_car(source: str) -> str | None:
    """The name of the first frame that shows one."""
    with fcn_deploy.load("model.onnx") as segmenter:
        car = segmenter.spec.classes.index("car")
        async with aclosing(aiter(Pipeline(source, segmenter))) as deliveries:
            async for delivery in deliveries:
                if (delivery.labels == car).any():
                    return delivery.frame.name
    return None


print(asyncio.run(find_a_car("street/images")))
