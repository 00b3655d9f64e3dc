"""What `camcore inspect` finds out and how it shows it.

The document that ``--json`` prints has these keys, for every model unless something else is said. Free lengths are
their names or null, but for those of layers, which are given for the size that compute is counted for. What is not
known is null.

- ``kind``: ``"onnx"`` or ``"torch"``.
- of an ONNX file: ``file``, ``bytes``, ``external files`` (name: bytes), ``producer``, ``producer version``,
  ``ir version``, ``opset`` (domain: version), ``nodes``, ``operators`` (name: how many, most first), ``initializers``
  (``count``, ``bytes``, ``external bytes``), ``inputs`` and ``outputs`` (``name``, ``type``, ``shape``; inputs
  ``optional``), ``embedded`` (what the file says of the CAM in it, or null), ``metadata`` (``key``, ``ours``,
  ``length``, ``value``: its beginning), ``complaints``.
- of a PyTorch module: ``device``, ``class``, ``modules`` (class: how many), ``trainable parameters``.
- ``parameters``; ``precision`` in words; ``weights`` (type: bytes, most first).
- ``compute``: ``macs`` for one image, ``for`` (input: shape), ``not counted`` (operators), ``problem``.
- ``input``: what takes the images; null where nothing does. ``obstacle``: why there is no CAM, or null.
- ``layer``: the features: ``name``, ``shape`` without the batch, ``gradient``, ``no gradient`` (why), ``approximate``
  (why), ``macs behind``, ``share behind`` (of the compute: what a run of the tail there costs, or a gradient).
- ``head``: ``how`` (the way from the features to the scores) and ``form``, or null; ``second classifier``.
- ``layers``: candidates, as ``layer``, with ``made by``.
- ``methods``: by name ``possible``, ``why not``, ``cost`` in words, ``forward passes`` (multiply-accumulates for an
  image and a class, in those of one forward pass), ``way``, ``same map as``, ``paper``.
- ``labels`` (how many are recorded) and ``preprocess``, or null.
"""
