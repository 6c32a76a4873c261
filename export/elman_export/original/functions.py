"""Recurrent layers as ONNX functions of this package: a Scan over time instead of one operator.

A layer is a function here for one of two reasons. ONNX has no operator for the layer (an LSTM with
a projection), or ONNX Runtime's operator rounds a batch of one row differently from larger batches
(an RNN). A product with a constant matrix rounds all batch sizes alike, so a single product
computes the input part for all elements. During editing, a layer is one node, called like the
operator. At the end, `inline` replaces the node with the Scan.

Each function takes `X [time, batch, in]`, `W [in, gates]`, `R [hidden, gates]`, `B [gates]`, int32
`lengths [batch]` and the states `[1, batch, size]`. It returns `Y [time, batch, hidden]` and the
states at each row's own end. Values of a row behind its end are undefined.
"""

import onnx
import onnx.inliner
import onnx.parser
import onnx_ir as ir

RNN = {"tanh": "elman.tanh", "relu": "elman.relu"}
"""Domains of `RNN`, by activation."""

PROJECTED = "elman.projected"
"""Domain of an `LSTM` whose hidden state is the product of its output with `P [hidden, size]`."""

_OURS = frozenset((*RNN.values(), PROJECTED))

_ALL_TURNS = """
  first = Constant <value_ints = [0]> ()
  last = Constant <value_ints = [1]> ()
  both = Constant <value_ints = [1, 2]> ()
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  products = MatMul (X, W)
  inputs = Add (products, B)
  time = Shape <start = 0, end = 1> (X)
  end = Squeeze (time)
  places = Range (zero, end, one)
  column = Unsqueeze (places, both)
  counts = Cast <to = 7> (lengths)
  ends = Unsqueeze (counts, last)
  live = Less (column, ends)
"""

_RNN = """
<opset_import: ["" : {opset}], domain: "{domain}">
RNN (X, W, R, B, lengths, h) => (Y, Y_h) {{
  {turns}
  h_first = Squeeze (h, first)
  h_last, Y = Scan <num_scan_inputs = 2, body = turn (float h_old, float x, bool alive)
    => (float h_new, float y) {{
      product = MatMul (h_old, R)
      total = Add (x, product)
      y = {activation} (total)
      h_new = Where (alive, y, h_old)
  }}> (h_first, inputs, live)
  Y_h = Unsqueeze (h_last, first)
}}
"""

# Gates in torch's order: input, forget, cell, output.
_LSTM = """
<opset_import: ["" : {opset}], domain: "{domain}">
LSTM (X, W, R, B, lengths, h, c, P) => (Y, Y_h, Y_c) {{
  {turns}
  h_first = Squeeze (h, first)
  c_first = Squeeze (c, first)
  h_last, c_last, Y = Scan <num_scan_inputs = 2,
    body = turn (float h_old, float c_old, float x, bool alive)
    => (float h_new, float c_new, float y) {{
      product = MatMul (h_old, R)
      total = Add (x, product)
      i_sum, f_sum, g_sum, o_sum = Split <axis = -1, num_outputs = 4> (total)
      i = Sigmoid (i_sum)
      f = Sigmoid (f_sum)
      g = Tanh (g_sum)
      o = Sigmoid (o_sum)
      old_part = Mul (f, c_old)
      new_part = Mul (i, g)
      c_made = Add (old_part, new_part)
      c_shown = Tanh (c_made)
      hidden = Mul (o, c_shown)
      y = MatMul (hidden, P)
      h_new = Where (alive, y, h_old)
      c_new = Where (alive, c_made, c_old)
  }}> (h_first, c_first, inputs, live)
  Y_h = Unsqueeze (h_last, first)
  Y_c = Unsqueeze (c_last, first)
}}
"""


def is_ours(node: ir.Node) -> bool:
    """Whether a node calls a function of this module."""
    return node.domain in _OURS


def attach(model: onnx.ModelProto) -> None:
    """Adds the called functions to the model, which can then run as it is."""
    called = {node.domain for node in model.graph.node}
    (opset,) = {each.version for each in model.opset_import if not each.domain}
    for activation, domain in RNN.items():
        if domain in called:
            model.functions.append(_parse(_RNN, domain, opset, activation.capitalize()))
    if PROJECTED in called:
        model.functions.append(_parse(_LSTM, PROJECTED, opset))


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with every function call replaced by the function's nodes, and no
    functions."""
    model = onnx.inliner.inline_local_functions(model)
    opsets = [each for each in model.opset_import if each.domain not in _OURS]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    return model


def _parse(text: str, domain: str, opset: int, activation: str = "") -> onnx.FunctionProto:
    made = onnx.parser.parse_function(
        text.format(domain=domain, opset=opset, activation=activation, turns=_ALL_TURNS)
    )
    for node in made.node:
        for attribute in node.attribute:
            for value in (*attribute.g.input, *attribute.g.output):
                value.type.tensor_type.ClearField("shape")  # otherwise "float" declares a scalar
    return made
