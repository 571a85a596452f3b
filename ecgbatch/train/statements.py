"""What the SCP-ECG statement codes of PTB-XL stand for, and which diagnostic superclass they belong to.

Wagner et al., "PTB-XL, a large publicly available electrocardiography dataset", Sci Data 7:154 (2020), table 11 ff.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

__all__ = ["NAMES", "SUPERCLASSES", "with_superclasses"]

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "1AVB": "first degree AV block",
        "2AVB": "second degree AV block",
        "3AVB": "third degree AV block",
        "ABQRS": "abnormal QRS",
        "AFIB": "atrial fibrillation",
        "AFLT": "atrial flutter",
        "ALMI": "anterolateral myocardial infarction",
        "AMI": "anterior myocardial infarction",
        "ANEUR": "ST-T changes compatible with ventricular aneurysm",
        "ASMI": "anteroseptal myocardial infarction",
        "BIGU": "bigeminal pattern",
        "CD": "conduction disturbance (superclass)",
        "CLBBB": "complete left bundle branch block",
        "CRBBB": "complete right bundle branch block",
        "DIG": "digitalis effect",
        "EL": "electrolytic disturbance or drug effect",
        "HYP": "hypertrophy (superclass)",
        "HVOLT": "high QRS voltage",
        "ILBBB": "incomplete left bundle branch block",
        "ILMI": "inferolateral myocardial infarction",
        "IMI": "inferior myocardial infarction",
        "INJAL": "subendocardial injury in anterolateral leads",
        "INJAS": "subendocardial injury in anteroseptal leads",
        "INJIL": "subendocardial injury in inferolateral leads",
        "INJIN": "subendocardial injury in inferior leads",
        "INJLA": "subendocardial injury in lateral leads",
        "INVT": "inverted T waves",
        "IPLMI": "inferoposterolateral myocardial infarction",
        "IPMI": "inferoposterior myocardial infarction",
        "IRBBB": "incomplete right bundle branch block",
        "ISCAL": "ischaemia in anterolateral leads",
        "ISCAN": "ischaemia in anterior leads",
        "ISCAS": "ischaemia in anteroseptal leads",
        "ISCIL": "ischaemia in inferolateral leads",
        "ISCIN": "ischaemia in inferior leads",
        "ISCLA": "ischaemia in lateral leads",
        "ISC_": "non-specific ischaemia",
        "IVCD": "non-specific intraventricular conduction disturbance",
        "LAFB": "left anterior fascicular block",
        "LAO/LAE": "left atrial overload or enlargement",
        "LMI": "lateral myocardial infarction",
        "LNGQT": "long QT interval",
        "LOWT": "low amplitude T waves",
        "LPFB": "left posterior fascicular block",
        "LPR": "prolonged PR interval",
        "LVH": "left ventricular hypertrophy",
        "LVOLT": "low QRS voltages",
        "MI": "myocardial infarction (superclass)",
        "NDT": "non-diagnostic T abnormalities",
        "NORM": "normal ECG",
        "NST_": "non-specific ST changes",
        "NT_": "non-specific T wave changes",
        "PAC": "atrial premature complex",
        "PACE": "artificial pacemaker",
        "PMI": "posterior myocardial infarction",
        "PRC(S)": "premature complexes",
        "PSVT": "paroxysmal supraventricular tachycardia",
        "PVC": "ventricular premature complex",
        "QWAVE": "Q waves present",
        "RAO/RAE": "right atrial overload or enlargement",
        "RVH": "right ventricular hypertrophy",
        "SARRH": "sinus arrhythmia",
        "SBRAD": "sinus bradycardia",
        "SEHYP": "septal hypertrophy",
        "SR": "sinus rhythm",
        "STACH": "sinus tachycardia",
        "STD_": "ST depression",
        "STE_": "ST elevation",
        "STTC": "ST or T change (superclass)",
        "SVARR": "supraventricular arrhythmia",
        "SVTAC": "supraventricular tachycardia",
        "TAB_": "T wave abnormality",
        "TRIGU": "trigeminal pattern",
        "VCLVH": "voltage criteria for left ventricular hypertrophy",
        "WPW": "Wolff-Parkinson-White pattern",
    }
)

_MI = ("IMI", "ASMI", "ILMI", "AMI", "ALMI", "LMI", "IPLMI", "IPMI", "PMI", "INJAS", "INJAL", "INJIN", "INJLA", "INJIL")
_STTC = ("NDT", "NST_", "DIG", "LNGQT", "ISC_", "ISCAL", "ISCIN", "ISCIL", "ISCAS", "ISCLA", "ISCAN", "ANEUR", "EL")
_CD = ("LAFB", "IRBBB", "1AVB", "IVCD", "CRBBB", "CLBBB", "LPFB", "WPW", "ILBBB", "3AVB", "2AVB")
_HYP = ("LVH", "LAO/LAE", "RVH", "RAO/RAE", "SEHYP")

SUPERCLASSES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "NORM": frozenset({"NORM"}),
        "MI": frozenset(_MI),
        "STTC": frozenset(_STTC),
        "CD": frozenset(_CD),
        "HYP": frozenset(_HYP),
    }
)
"""The five of PTB-XL's benchmarks."""


def with_superclasses(codes: Sequence[str], targets: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Labels (record, label), and each superclass of them as a label of its own: 1 where one of its statements is.

    A statement counts whatever its likelihood: form and rhythm statements carry 0 by convention, and what was written
    with 15 % is nearer to the reader's view of the ECG than its absence. PTB-XL's benchmarks do the same.
    """
    added, columns = [], []
    for name, members in SUPERCLASSES.items():
        at = [column for column, code in enumerate(codes) if code in members]
        if len(at) > 1 and name not in codes:  # of one alone it would be the same label twice
            added.append(name)
            columns.append(targets[:, at].max(axis=1))  # NaN where one is unknown
    return (*codes, *added), np.column_stack([targets, *columns]).astype(np.float32)
