"""The input pictures of a body: where they stand in it, and how a drawing reads them."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from ...runtime.drawing import input_size
from ...runtime.images.pixels import Size, reference_size, resize_lanczos
from ...runtime.manifest import Manifest
from ..settings import MAX_CHAT_PIXELS
from .bodies import ChatBody, DrawBody, ReflectBody, TaskBody
from .conversations import picture_parts
from .pictures import check_sizes, data_url, png_bytes, read_data_url


def picture_places(body: TaskBody) -> list[tuple[str, str]]:
    """A body's input pictures, those of a conversation's history included: the address of each, and its parameter."""
    if isinstance(body, ChatBody):
        parts = [each for number, message in enumerate(body.messages) for each in picture_parts(message, f"messages[{number}]")]
        return [(part.image_url.url, param) for part, param in parts]
    return [(url, f"images[{index}]") for index, url in enumerate(body.images)]


def replace_pictures(body: TaskBody, urls: Mapping[str, str]) -> None:
    """Put other addresses in the place of some pictures' own, in the body itself."""
    if isinstance(body, ChatBody):
        for message in body.messages:
            for part, _ in picture_parts(message, ""):
                part.image_url.url = urls.get(part.image_url.url, part.image_url.url)
    else:
        body.images[:] = [urls.get(url, url) for url in body.images]


def shrink_pictures(body: TaskBody, manifest: Manifest) -> list[Size]:
    """Put each input picture into the body at the size at which it is read, and return those sizes.

    A drawing reads them at its input size, a chat at most at `MAX_CHAT_PIXELS`. One picture is decoded after another, and none is
    kept. Raises ApiError for one that can't be read, and for more pixels together than a request may have; RequestError for one
    that is too small.
    """
    places = picture_places(body)
    check_sizes(places)
    request, sizes, urls = body.request(""), [], {}
    for url, param in places:
        picture = read_data_url(url, param)
        given = Size(*picture.size)
        is_chat = isinstance(body, ChatBody)
        size = reference_size(*given, 1, MAX_CHAT_PIXELS, max(given)) if is_chat else input_size(manifest, request, given)
        sizes.append(size)
        if size != given:
            urls[url] = data_url(png_bytes(resize_lanczos(picture, size)), "image/png")
    replace_pictures(body, urls)
    return sizes


def input_images(body: DrawBody | ReflectBody) -> list[Image.Image]:
    """A drawing's input pictures, after `shrink_pictures`. Raises ApiError."""
    return [read_data_url(url, param) for url, param in picture_places(body)]
