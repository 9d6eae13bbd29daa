"""A Ray job that uses the pool of its cluster: no URL, no key, no HTTP. The driver has a sandbox; so has every task."""

import ray

from raybox import Sandbox


@ray.remote(num_cpus=0.25)
def square(number: int) -> str | None:
    with Sandbox.create(timeout=60) as sandbox:
        return sandbox.run_code(f"{number} ** 2").text


ray.init()
with Sandbox.create(timeout=60) as sandbox:
    sandbox.run_code("import platform")
    print("the sandbox says:", sandbox.run_code("f'Python {platform.python_version()}'").text)
print("squares:", ray.get([square.remote(number) for number in range(4)]))
