"""The error hierarchy."""

from __future__ import annotations

import inspect

from omnigen2_rt.runtime import errors


def test_every_error_derives_from_the_root_and_stands_in_the_drawing() -> None:
    classes = dict(inspect.getmembers(errors, inspect.isclass))
    assert set(classes) == {"OmniGen2Error", "BundleError", "RequestError", "BackendError", "ExportError", "Cancelled"}
    for name, error in classes.items():
        assert issubclass(error, errors.OmniGen2Error)
        assert name in (errors.__doc__ or "")
