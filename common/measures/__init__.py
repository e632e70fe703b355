"""What a number means: measures of reconstructions, of latents and of handwriting, and intervals
over seeds.
"""
