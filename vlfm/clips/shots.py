"""Where one shot ends and another begins, frame by frame as a video is read."""

import numpy as np


class CutDetector:
    """Tells whether a frame begins a new shot: `detector(frame) -> bool`, frames in order.

    Args:
        threshold: PySceneDetect's content threshold (`clips.shot_threshold`); 0 finds no cuts.
    """

    WIDTH = 256  # pixels the picture is made smaller to first

    def __init__(self, threshold: float) -> None:
        self._detector = None
        self._count = 0
        if threshold > 0:
            from scenedetect import ContentDetector

            # No minimum length: its purpose is to merge cuts, but no window may cross any.
            self._detector = ContentDetector(threshold=threshold, min_scene_len=0)

    def __call__(self, frame: np.ndarray) -> bool:
        """frame: uint8 (H, W, 3)."""
        if self._detector is None:
            return False
        import cv2
        from scenedetect import FrameTimecode

        height, width = frame.shape[:2]
        if width > self.WIDTH:
            small = (self.WIDTH, max(1, round(height * self.WIDTH / width)))
            frame = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)
        code = FrameTimecode(self._count, fps=25.0)
        self._count += 1
        return bool(self._detector.process_frame(code, np.ascontiguousarray(frame[:, :, ::-1])))
