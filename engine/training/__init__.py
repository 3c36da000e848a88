"""Making dictionaries and their feature cards: text → activations on disk → training → figures → cards."""
