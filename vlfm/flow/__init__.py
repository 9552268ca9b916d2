"""The mathematics of video latent flow matching: pure tensor code, no files.

Projection (`bases`, `hippo_legs`, `projection`, `online`), the flow (`schedules`, `path`, `heads`, `losses`),
rendering (`solvers`, `readout`), and the paths of given clips (`interpolation`, `tails`).
"""
