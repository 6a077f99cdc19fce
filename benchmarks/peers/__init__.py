"""Salience beside Captum, pytorch-grad-cam, Quantus and XAITK-saliency: the same maps and scores, in one process.

    python -m benchmarks.peers photos/ --model salience.models.zoo:efficientnet_lite0

A row for each method and metric that a peer has too, with salience's settings that make it the same thing. Rounds of
the bare model calls, of salience and of the peer alternate; medians are compared. *Efficiency* is the time of the
calls that are mathematically needed (made by torch alone, at the best batch and memory format, weights frozen, warmed
up) over the time that a library takes for the same images. Salience's time is that of a whole run: reading and
decoding files, computing, storing. The peers get decoded images and store nothing. They are timed as people call them
(``usual``: batches of the usual size, default memory format, weights as they were loaded) and, in brackets, at their
best (the batch and the memory format that are the fastest here, weights frozen).

The values are compared too: Spearman's rank correlation, and the largest difference relative to the peer's largest
value, of an image's map or over all images' scores. Methods that draw are given the same draws where the peer takes
draws from outside; elsewhere their rank correlation stands beside that of two seeds of salience. A remark says where
values should differ, and why.
"""
