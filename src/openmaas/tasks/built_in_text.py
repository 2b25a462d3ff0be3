"""The text that generators are compared on where a version was pushed without one: prose, speech, figures, code, Chinese."""

from __future__ import annotations

from typing import Final

TEXT: Final = """\
The ferry left the harbour a little after six, while the lamps along the quay were still lit. Anna stood at the rail \
and watched the town grow smaller. She had packed in a hurry the night before: two shirts, a notebook, her father's \
old compass, and a map of the islands on which somebody had drawn a route in red ink. Nobody at home knew what the \
route was for. Her grandmother had only said that it was older than the map itself, and that the weather would turn \
before the week was out.

"Are you going all the way?" asked the man who sold coffee from a small cart near the stairs.

"To the last stop," she said. "How long does it take?"

"Four hours when the sea is calm. Today I would say five." He looked at the clouds in the west and shrugged. "Perhaps \
six."

Water boils at 100 degrees Celsius at sea level, but at lower temperatures in the mountains, because the pressure of \
the air falls with height. At 3,000 metres it boils at about 90 degrees, so that potatoes take longer to cook there. A \
pressure cooker does the opposite: it keeps the steam in, the pressure rises to about twice that of the air outside, \
and the water boils at 120 degrees. The same law explains why a car's radiator is closed with a cap that holds some \
pressure back.

To find the greatest number in a list, begin with the first one and remember it. Look at each of the others in turn; \
whenever one is greater than what you remember, remember that one instead. When the list is over, what you remember is \
the answer. In Python:

def greatest(numbers):
    best = numbers[0]
    for number in numbers[1:]:
        if number > best:
            best = number
    return best

The committee met on Tuesday to decide what should become of the old railway station. Three proposals had been handed \
in. The first would turn the building into a library with a reading room under the glass roof; the second into a \
market hall; the third, which had the fewest friends, would tear it down and build flats. Mr. Okafor, who had spent \
most of his working life on the railway, spoke for the library. He reminded everyone that the roof had been repaired \
only nine years ago, at a cost of 1.4 million, and that it would be hard to explain to the people who had paid for it \
why it should go now.

从前，有一位老人住在山脚下的小村子里。每天清晨，他都会沿着小路走到河边，看太阳从东边的山上升起。村里的孩子们喜欢听他讲故事，因为他年轻的时候去过很多地方，见过大海，也见过沙漠。

Dear Ms. Lindqvist, thank you for your letter of 12 March. We are sorry that the lamp arrived broken. A new one was \
sent to you this morning, and you need not return the first. Should anything else be missing, please write to us or \
call us between nine and five on weekdays; we will be glad to help.
"""
