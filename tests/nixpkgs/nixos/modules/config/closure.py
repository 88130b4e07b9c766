"""Builder of one path of nixpipe.closure: `files` files of `size` bytes together, 35 % of them noise."""

import os
import random

out = os.environ["out"]
size, count = int(os.environ["size"]), int(os.environ["files"])
references = os.environ["references"].split()
chance = random.Random(os.environ["seed"])
# The rest repeats within the 32 KiB that gzip looks back, so that the noise is what any compressor leaves.
words = [bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(500)]
page = b" ".join(chance.choices(words, k=4000)) + b"\n"

for folder in ("bin", "share"):
    os.makedirs(f"{out}/{folder}")
for number in range(count):
    part = size * (number + 1) // count - size * number // count
    noise = chance.randbytes(part * 35 // 100)
    start = chance.randrange(len(page))
    text = (page[start:] + page * (part // len(page) + 2))[: part - len(noise)]
    path = f"{out}/{'bin' if number % 3 == 0 else 'share'}/file-{number}"
    with open(path, "wb") as file:
        file.write(noise + text)
    if number % 3 == 0:
        os.chmod(path, 0o755)
with open(f"{out}/share/references", "w") as file:
    file.writelines(f"{reference}/bin/file-0\n" for reference in references)
