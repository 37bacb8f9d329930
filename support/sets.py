"""The paper's data sets: where they are, and how a row of theirs becomes one of ours.

    gsm8k         the original GSM8K (MIT licence), train and test
    lorid-gsm8k   the authors' own: rephrased GSM8K problems with knowledge; test as above
    lorid-math    the same for MATH; its test split is all of MATH's
    metamath      MetaMathQA, train only: what the paper's intuitive reasoner learned from
"""
import hashlib
import re

from lorid import extract_answer

GSM8K = ("https://raw.githubusercontent.com/openai/grade-school-math/"
         "3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/")


def from_gsm8k(i, row):
    """GSM8K's answer is the solution, with notes for a calculator, <<48/2=24>>, and "#### 72"."""
    rationale, _, answer = row["answer"].rpartition("####")
    rationale = re.sub("<<.*?>>", "", rationale).strip()
    return dict(id=i, question=row["question"], rationale=rationale,
                answer=answer.strip().replace(",", ""))


def from_lorid(i, row):
    """The authors' own keys are ours; in MATH, the answer stands in the rationale only."""
    return {"answer": extract_answer(row["rationale"])} | row


def from_metamath(i, row):
    """MetaMathQA's response ends in "The answer is: 72", that to a GSM8K question also in "#### 72"
    before; as in the authors' rows, MATH's keep it. Rephrasings of one problem share an id; it is
    unlike those of GSM8K and MATH, so that --map cannot take one for the other."""
    rationale, _, answer = row["response"].rpartition("The answer is:")
    if rationale and row["type"].startswith("MATH"):
        rationale = row["response"]
    else:
        rationale = re.sub(r"\n####.*\s*\Z", "", rationale)
    problem = hashlib.sha256(row["original_question"].encode()).hexdigest()[:12]
    return dict(id=f"metamath-{problem}", question=row["query"], rationale=rationale.strip(),
                answer=answer.strip().rstrip(" ."), source=row["type"])


def fetch(url, digest):
    """The bytes of a file, by its SHA-256."""
    import requests  # here, because only the network needs it
    try:
        response = requests.get(url, timeout=60)
        response.raise_for_status()
    except OSError as error:  # of requests, too
        raise ValueError(f"{url} cannot be fetched now ({error}); try again later.") from None
    if hashlib.sha256(response.content).hexdigest() != digest:
        raise ValueError(f"{url} has come with another SHA-256 than it should.")
    return response.content


LORID = {"train": ("train.jsonl", None), "test": ("test.jsonl", None)}
SETS = {  # name: (where, {split: (file, SHA-256 if not of the hub)}, how a row becomes ours)
    "gsm8k": (GSM8K, {  # the original files; on the hub as parquet only
        "train": ("train.jsonl",
                  "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
        "test": ("test.jsonl",
                 "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"),
    }, from_gsm8k),
    "lorid-gsm8k": ("LoRID-Math/GSM8K", LORID, from_lorid),  # the authors', with knowledge
    "lorid-math": ("LoRID-Math/MATH", LORID, from_lorid),  # 176 MB; its test split is MATH's
    "metamath": ("meta-math/MetaMathQA", {"train": ("MetaMathQA-395K.json", None)}, from_metamath),
}
