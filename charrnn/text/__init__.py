"""Text to minibatches: corpora, reading, vocabulary, splits, windows."""
