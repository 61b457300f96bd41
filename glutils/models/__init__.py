"""Networks that clients train (:func:`build`), and pure functions of their parameters and of images."""

from .features import before_layers, layer_input, layers_with_parameters, record_inputs
from .functional import (
    Parameters,
    batchnorm_mode,
    check_deterministic,
    flatten,
    gradient,
    last_linear,
    logits,
    loss,
    own_precision,
    parameters,
    stateless,
    unflatten,
)
from .zoo import (
    ACTIVATIONS,
    Normalise,
    build,
    class_count,
    cnn,
    convnet,
    describe,
    image_shape,
    lenet,
    mlp,
    names,
    resnet8,
    resnet18,
    resnet50,
    vgg16,
)

__all__ = [
    "ACTIVATIONS", "Normalise", "Parameters", "batchnorm_mode", "before_layers", "build", "check_deterministic",
    "class_count", "cnn", "convnet", "describe", "flatten", "gradient", "image_shape", "last_linear", "layer_input",
    "layers_with_parameters", "lenet", "logits", "loss", "mlp", "names", "own_precision", "parameters", "record_inputs",
    "resnet18", "resnet50", "resnet8", "stateless", "unflatten", "vgg16",
]  # fmt: skip
