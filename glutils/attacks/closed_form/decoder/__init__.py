"""Images from features: a network trained on public images to undo the victim's own layers up to its last one.

What FGLA (:func:`glutils.attacks.closed_form.fgla.fgla`) needs beside the gradient. :func:`train` makes one::

    trained = gl.decoder.train(model, gl.data.public("photos", count=1000), epochs=8, seed=0)
    result = gl.attack("fgla", seen, decoder=trained.decoder)
"""

from .network import Decoder, backbone_digest, feature_shape, features, load, remove_pooling
from .training import Training, folder, train

__all__ = [
    "Decoder", "Training", "backbone_digest", "feature_shape", "features", "folder", "load", "remove_pooling",
    "train",
]  # fmt: skip
