"""One file for each way to load a model; every file here is found by itself.

To add one, write a file with a function decorated by :func:`salience.models.registry.adapter`. It takes a
:class:`~salience.models.registry.Request` and returns a :class:`~salience.models.classifier.Classifier`. Import torch
and other packages inside the function: the table of adapters must not wait for them.
"""
