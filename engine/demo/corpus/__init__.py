"""The text that the demo model learns from. In: a seed and a split. Out: documents, for ever."""
