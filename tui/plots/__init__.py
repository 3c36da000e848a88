"""Views of studies drawn as lines of text for any width and height; nothing here knows a widget."""
