"""What is drawn. A figure's title is its message, a sentence; its caption, with the numbers, is
kept in the PNG.
"""
