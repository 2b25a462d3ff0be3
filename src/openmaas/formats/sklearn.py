"""x"""

from openmaas.formats.base import Format


class SklearnFormat(Format):
    name = "sklearn"

    def find(self, folder, files):
        return []

    def examine(self, task, entry):
        raise NotImplementedError
