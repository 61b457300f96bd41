"""Networks that clients train (:func:`build`), and pure functions of their parameters and of images."""

from . import losses
from .adapters import adapted
from .building import build
from .factories import names, register
from .features import before_layers, layer_input, record_inputs
from .functional import (
    Parameters,
    batchnorm_mode,
    check_deterministic,
    flatten,
    gradient,
    logits,
    loss,
    output_tensor,
    own_losses,
    own_precision,
    parameters,
    stateless,
    unflatten,
)
from .language_model import gpt, likeliest, step
from .loading import load
from .probe import last_linear, layers_with_parameters, outputs, probe
from .vectorised import vectorised
from .vision_transformer import vit
from .zoo import (
    ACTIVATIONS,
    Normalise,
    class_count,
    cnn,
    convnet,
    describe,
    image_shape,
    lenet,
    mlp,
    resnet8,
    resnet18,
    resnet50,
    vgg16,
)

__all__ = [
    "ACTIVATIONS", "Normalise", "Parameters", "adapted", "batchnorm_mode", "before_layers", "build",
    "check_deterministic", "class_count", "cnn", "convnet", "describe", "flatten", "gpt", "gradient", "image_shape",
    "last_linear", "layer_input", "layers_with_parameters", "lenet", "likeliest", "load", "logits", "loss", "losses",
    "mlp", "names", "output_tensor", "outputs", "own_losses", "own_precision", "parameters", "probe", "record_inputs",
    "register", "resnet18", "resnet50", "resnet8", "stateless", "step", "unflatten", "vectorised", "vgg16", "vit",
]  # fmt: skip
