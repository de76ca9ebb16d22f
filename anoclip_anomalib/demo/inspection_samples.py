"""Images and masks that adapters are trained on: pictures as an inspection camera takes them, of parts good and bad."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anoclip_anomalib.demo import harmless
from anoclip_anomalib.demo.camera import Camera, frame
from anoclip_anomalib.demo.defects import DEFECTS, visible_defect
from anoclip_anomalib.demo.fine_defects import TRAINING_DEFECTS
from anoclip_anomalib.demo.noise import Image, Rng
from anoclip_anomalib.demo.objects import CATEGORIES, OBJECTS
from anoclip_anomalib.demo.photo_textures import PhotoTextures
from anoclip_anomalib.demo.scene import Defect, Mask, Photograph, Scene, texture_scene
from anoclip_anomalib.demo.textures import TEXTURES

LEAST_AREA = 0.002
"""Share of the picture that a defect covers at least, before the picture is framed."""
_LEAST_CHANGE = (0.05, 0.15)  # mean change inside the mask, drawn anew for each defect
_GENERAL = ("object", "part", "product", "item", "surface", "texture", "material", "component")
_DRAWN = 256  # side of a part before it is framed, in pixels


@dataclass(frozen=True)
class Pair:
    """One part twice, before framing and camera.

    Attributes:
        good: (S, S, 3), about 0 to 1.
        bad: The same with one or two defects.
        mask: (S, S) where they are.
    """

    good: Image
    bad: Image
    mask: Mask


def draw_scene(rng: Rng, size: int, photos: PhotoTextures | None = None) -> Scene:
    """A good part in its surroundings.

    Args:
        rng: Random numbers.
        size: Side of the picture in pixels.
        photos: Photographed surfaces and grounds; without them all surfaces are drawn.
    """
    kind = rng.random()
    if kind < 0.3:
        if photos is not None and rng.random() < 0.6:
            return texture_scene(photos.draw(rng, size).astype(np.float32))
        image = TEXTURES[str(rng.choice(list(TEXTURES)))](rng, size)
        return Scene(image, np.ones((size, size), bool), np.broadcast_to(0.4 * image.mean((0, 1)), image.shape))
    scene = harmless.loaf(rng, size) if kind < 0.45 else OBJECTS[str(rng.choice(list(OBJECTS)))](rng, size)
    if rng.random() < 0.4:
        scene = harmless.other_material(rng, scene, photos)
    for change, share in harmless.OF_THE_PART:
        if rng.random() < share:
            scene = change(rng, scene)
    if rng.random() < 0.5:
        scene = harmless.other_ground(rng, scene, photos)
    for change, share in harmless.AROUND_IT:
        if rng.random() < share:
            scene = change(rng, scene)
    return scene


def draw_pair(rng: Rng, size: int, photos: PhotoTextures | None = None) -> Pair:
    """A part without and with one or two defects; arguments as in :func:`draw_scene`."""
    scene = draw_scene(rng, size, photos)
    count = 1 + int(rng.random() < 0.2)
    image, mask = damage(rng, scene, tuple(TRAINING_DEFECTS.values()), count, rng.uniform(*_LEAST_CHANGE))
    return Pair(scene.image, image, mask)


def damage(rng: Rng, scene: Scene, defects: Sequence[Defect], count: int, change: float) -> tuple[Image, Mask]:
    """Some visible defects on a part.

    Args:
        rng: Random numbers.
        scene: The good part.
        defects: Kinds to draw from.
        count: How many of them.
        change: Least mean change inside a defect's mask.

    Returns:
        The damaged picture (S, S, 3) and the mask (S, S) of all defects.
    """
    image, mask = scene.image, np.zeros(scene.image.shape[:2], bool)
    for index in rng.permutation(len(defects)):
        damaged = Scene(image, scene.foreground, scene.background)
        try:
            image, changed = visible_defect(rng, damaged, defects[index], LEAST_AREA, change, tries=4)
        except RuntimeError:  # a plain part shows no displaced structure, say: another kind is drawn
            continue
        mask |= changed
        count -= 1
        if not count:
            break
    return image, mask


def take_pictures(rng: Rng, pair: Pair, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Photograph both parts of a pair, in one pose and light or each in its own.

    Args:
        rng: Random numbers.
        pair: From :func:`draw_pair`.
        size: Side of the pictures in pixels.

    Returns:
        Images (2, size, size, 3) uint8, the good part first, and masks (2, size, size) bool.
    """
    if rng.random() < 0.5:
        (good, bad), mask = frame(rng, [pair.good, pair.bad], pair.mask, size)
        camera = Camera(rng, size)
        images = [camera.take(rng, good), camera.take(rng, bad)]
    else:
        (good,), _ = frame(rng, [pair.good], pair.mask, size, keep=False)
        (bad,), mask = frame(rng, [pair.bad], pair.mask, size)
        images = [Camera(rng, size).take(rng, good), Camera(rng, size).take(rng, bad)]
    return np.stack(images), np.stack([np.zeros_like(mask), mask])


def plain_pictures(rng: Rng, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A pair much as the encoder was trained on, with small defects too: a part on a quiet ground, all of it in the picture.

    Arguments and results as in :func:`take_pictures`.
    """
    scene = CATEGORIES[str(rng.choice(list(CATEGORIES)))](rng, size)
    for change in (harmless.sections, harmless.rounded, harmless.gleams):
        if rng.random() < 0.15:
            scene = change(rng, scene)
    image, mask = damage(rng, scene, tuple(DEFECTS.values()), 1, 0.05)
    first = Photograph.draw(rng, size)
    second = first if rng.random() < 0.5 else Photograph.draw(rng, size)
    pictures = np.stack([first.take(scene.image), second.take(image)])
    if rng.random() < 0.3:
        pictures = pictures[..., rng.permutation(3)]
    return pictures, np.stack([np.zeros_like(mask), mask])


class DrawnParts:
    """Generated images as a source of training data: each is drawn when it is asked for, and never stored.

    Images ``2k`` and ``2k + 1`` show one part, good and then with a defect; (seed, epoch, k) alone decides which part.

    Args:
        images: Images in an epoch.
        image_size: Side of the images in pixels.
        photos: Photographed surfaces and grounds; without them all surfaces are drawn.
        seed: Of all images.
        plain: Share of pairs that are as those of the encoder's training, see :func:`plain_pictures`.

    Attributes:
        categories: General names and those of training categories, one of which goes with each pair at random: defects
            shall be found whatever a part is called.
    """

    in_pairs = True
    categories = (*_GENERAL, *CATEGORIES)

    def __init__(
        self, images: int, image_size: int, photos: PhotoTextures | None = None, seed: int = 0, plain: float = 0.4
    ) -> None:
        self.images, self.image_size, self.photos, self.seed, self.plain = images, image_size, photos, seed, plain
        self._pair = lru_cache(maxsize=1)(self._draw_pair)  # both images of a pair are asked for one after the other

    def __len__(self) -> int:
        return self.images

    def draw(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        """One image (S, S, 3) uint8, its mask (S, S) bool and its category."""
        images, masks, category = self._pair(epoch, index // 2)
        return images[index % 2], masks[index % 2], category

    def _draw_pair(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray, str]:
        rng = np.random.default_rng([self.seed, epoch, number])
        if rng.random() < self.plain:
            images, masks = plain_pictures(rng, self.image_size)
        else:
            images, masks = take_pictures(rng, draw_pair(rng, _DRAWN, self.photos), self.image_size)
        names = _GENERAL if rng.random() < 0.5 else self.categories
        return images, masks, names[int(rng.integers(len(names)))]
