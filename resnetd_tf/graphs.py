"""Opening SavedModels, ours and those from elsewhere, as the graphs that they are.

A SavedModel is a program, which can read and write files. TensorFlow's loader runs parts of it at once, and its own
scan for dangerous operations knows three of them. So the file is parsed without the loader, and every operation in it
must be one that our exporters write; of these none touches a file but those that save and restore variables, which our
exports do not have: they are taken out. What export.py converts, TensorFlow's loader opens after this has looked at it.
"""

import pathlib
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.config_pb2 import CallableOptions
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from resnetd_tf.environment import free_memory
from resnetd_tf.errors import NotOurs

OPERATIONS = """
    Abs AddV2 All ArgMax AsString Assert AvgPool BatchDatasetV2 BiasAdd Cast ConcatenateDataset Const Conv2D
    DatasetToSingleElement DecodeJpeg DecodeRaw EnsureShape Equal ExpandDims ExtractJpegShape Fill FloorDiv GatherV2
    Greater Identity If IgnoreErrorsDataset Less LessEqual LogicalAnd LogicalOr MatMul MaxPool Maximum Mean Mul NoOp
    Pack Pad ParallelMapDatasetV2 ParseExampleV2 PartitionedCall Placeholder Range RealDiv Relu Reshape
    ResizeBilinear ScatterNd Select SelectV2 Shape Size Softmax Sqrt Squeeze StatefulPartitionedCall StatelessIf
    StatelessWhile StaticRegexFullMatch StridedSlice StringJoin StringLength Sub Substr Sum TensorDataset
    TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem TensorListStack TensorScatterUpdate
    TensorSliceDataset Tile Transpose While
"""  # ResizeBilinear, StatelessWhile and lists of tensors: those of versions before 0.2.0
OBJECTS = {"user_object", "function", "bare_concrete_function", "constant"}
SAVING = {"MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"}


def read(path: pathlib.Path) -> MetaGraphDef:
    """The graph of a SavedModel folder, all of whose operations are known.

    Raises:
        NotOurs: One is not.
        ValueError: TensorFlow 2 did not write it.
        Exception: What protobuf raises for a damaged file.
    """
    saved = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        raise ValueError("not a SavedModel as TensorFlow 2 writes it")
    meta = saved.meta_graphs[0]
    # Among objects a `resource` has a function that TensorFlow's loader runs, and so has one that can be restored.
    objects = {str(node.WhichOneof("kind")) for node in meta.object_graph_def.nodes}
    if any(node.saveable_objects for node in meta.object_graph_def.nodes):
        raise NotOurs("has objects that are restored by functions, which no model of ours has")
    found = {node.op for node in _nodes(meta)}
    if unknown := sorted((objects - OBJECTS) | (found - set(OPERATIONS.split()) - SAVING)):
        raise NotOurs(f"has {', '.join(unknown)}, which no model of ours does")
    return meta


def load(path: pathlib.Path) -> tuple[Callable[[np.ndarray], np.ndarray], tf.TensorSpec, int]:
    """The signature `serving_default` of a SavedModel folder.

    Returns:
        A function of one array that gives one, what it takes, and the number of classes that it gives.

    Raises:
        NotOurs: The signature saves or restores files.
        Exception: As `read`, and whatever TensorFlow raises for a graph that is none.
    """
    graph, pixels, probabilities = _import(path)
    free_memory()  # TensorFlow makes further copies of the weights now
    # In a session, because names of functions are the whole process's elsewhere, and other models have the same ones.
    session = tf.compat.v1.Session(graph=graph)
    # `make_callable` looks for names in the messages of errors, for minutes where one holds a network's weights.
    run = session._make_callable_from_options(CallableOptions(feed=[pixels.name], fetch=[probabilities.name]))
    weakref.finalize(run, session.close)  # at the latest before the process ends: afterwards `run` stumbles
    return lambda images: run(images)[0], tf.TensorSpec(pixels.shape, pixels.dtype), probabilities.shape[-1]


def _import(path: pathlib.Path) -> tuple[tf.Graph, tf.Tensor, tf.Tensor]:
    """The graph of a SavedModel folder without what saves and restores, its input and its output."""
    meta = read(path)
    signature, library = meta.signature_def["serving_default"], meta.graph_def.library.function
    saving = {function.signature.name for function in library if any(node.op in SAVING for node in function.node_def)}
    _remove(library, lambda function: function.signature.name in saving)
    _remove(
        meta.graph_def.node,
        lambda node: node.op in SAVING or ("f" in node.attr and node.attr["f"].func.name in saving),
    )
    if any(value.func.name in saving for node in _nodes(meta) for value in node.attr.values()):
        raise NotOurs("saves or restores files where it classifies")
    (pixels,), probabilities = signature.inputs.values(), signature.outputs["probabilities"]
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(meta.graph_def, name="")
    given, answer = (graph.get_tensor_by_name(tensor.name) for tensor in (pixels, probabilities))
    answer.set_shape((None, probabilities.tensor_shape.dim[-1].size))
    return graph, given, answer


def _nodes(meta: MetaGraphDef) -> Iterator[NodeDef]:
    """All operations of a graph and of the functions in its library."""
    yield from meta.graph_def.node
    for function in meta.graph_def.library.function:
        yield from function.node_def


def _remove(some, unwanted) -> None:
    """Takes what is unwanted out of a repeated field of a protobuf, without a copy of the rest."""
    for index in reversed(range(len(some))):
        if unwanted(some[index]):
            del some[index]
