"""Forty short passages, each with a question that it alone answers, and the answer.

In: nothing. Out: `PASSAGES`. Everything in them is made up, so that no model knows it already.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """What is written, what is asked, and the words that a right answer has in it."""

    text: str
    question: str
    answer: str


PASSAGES = tuple(
    Passage(*each)
    for each in (
        (
            "The library of Tarn opens at 9 o'clock and closes at 18 o'clock.",
            "When does the library of Tarn close?",
            "18",
        ),
        (
            "A ticket to the museum of glass costs 12 euros.",
            "What does a ticket to the museum of glass cost?",
            "12",
        ),
        (
            "The train to the coast leaves from platform 4.",
            "From which platform does the train to the coast leave?",
            "4",
        ),
        (
            "Mrs. Holm teaches music at the school by the river.",
            "Who teaches music at the school by the river?",
            "Holm",
        ),
        ("The baker's dog is called Biscuit.", "What is the baker's dog called?", "Biscuit"),
        ("Nora works as a nurse in the hospital of Lund.", "What is Nora's job?", "nurse"),
        (
            "The harbour of Sele was built in 1874.",
            "In which year was the harbour of Sele built?",
            "1874",
        ),
        (
            "The door of the old mill is painted green.",
            "What colour is the door of the mill?",
            "green",
        ),
        ("Peter was born in Vienna and lives in a small flat.", "Where was Peter born?", "Vienna"),
        ("The tallest tree in the park is an oak of 31 metres.", "How tall is the oak?", "31"),
        (
            "The winter market begins on a Friday.",
            "On which day does the winter market begin?",
            "Friday",
        ),
        ("Olga's favourite food is soup with noodles.", "What is Olga's favourite food?", "soup"),
        (
            "The key of the cellar hangs behind the clock.",
            "Where is the key of the cellar?",
            "clock",
        ),
        ("Bus 27 goes from the station to the zoo.", "Which bus goes to the zoo?", "27"),
        (
            "The captain of the ferry Aurora is Mr. Lind.",
            "Who is the captain of the Aurora?",
            "Lind",
        ),
        ("The hotel Miramar has 64 rooms.", "How many rooms does the hotel Miramar have?", "64"),
        (
            "The garden behind the church has 12 apple trees.",
            "How many apple trees are there?",
            "12",
        ),
        (
            "Emil plays the violin in the city orchestra.",
            "Which instrument does Emil play?",
            "violin",
        ),
        ("The film about the moon lasts 95 minutes.", "How long is the film about the moon?", "95"),
        ("The cheese shop is in Rose Street.", "In which street is the cheese shop?", "Rose"),
        ("The river Asta is 210 kilometres long.", "How long is the river Asta?", "210"),
        ("The painter Ida Berg died in Oslo.", "Where did the painter Ida Berg die?", "Oslo"),
        ("Karl's bicycle is red with a black saddle.", "What colour is Karl's bicycle?", "red"),
        ("The meeting about the new bridge is in room 8.", "In which room is the meeting?", "8"),
        (
            "Doctor Weiss has her practice on the second floor.",
            "Who is on the second floor?",
            "Weiss",
        ),
        ("The swimming pool is closed on Monday.", "On which day is the pool closed?", "Monday"),
        ("The mountain Varo is 1840 metres high.", "How high is the mountain Varo?", "1840"),
        (
            "The book of fairy tales was written by Ella Stone.",
            "Who wrote the fairy tales?",
            "Stone",
        ),
        (
            "A bottle of the farm's apple juice costs 3 euros.",
            "What does the apple juice cost?",
            "3",
        ),
        ("The parrot of the innkeeper is named Captain.", "What is the parrot's name?", "Captain"),
        (
            "The summer school of chemistry is held in Prague.",
            "Where is the summer school?",
            "Prague",
        ),
        ("The letter from the bank arrived on Tuesday.", "When did the letter arrive?", "Tuesday"),
        ("The capital of the land of Orin is Belmar.", "What is the capital of Orin?", "Belmar"),
        ("The lighthouse keeper has 5 children.", "How many children has the keeper?", "5"),
        (
            "The first train of the day leaves at 6 o'clock.",
            "When does the first train leave?",
            "6",
        ),
        (
            "The prize for the best cake went to Martha.",
            "Who won the prize for the cake?",
            "Martha",
        ),
        (
            "The old castle of Brun belongs to a doctor.",
            "To whom does the castle belong?",
            "doctor",
        ),
        (
            "The trains to the north are yellow.",
            "What colour are the trains to the north?",
            "yellow",
        ),
        ("The password of the guest network is sunflower.", "What is the password?", "sunflower"),
        ("Lena moved from Berlin to Madrid last year.", "Where does Lena live now?", "Madrid"),
    )
)
