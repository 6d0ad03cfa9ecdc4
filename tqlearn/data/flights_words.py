"""The values of the ``flights`` grammar: what can fill a slot.

A list is (values for training, values kept for the test split). Values are separated by ", ";
those of several words become B- and I- tags. Slots that share a list share its values.
"""


def _split(text):
    return [value.strip() for value in " ".join(text.split()).split(",")]


CITY = (
    _split("""
    new york, boston, chicago, denver, san francisco, los angeles, seattle, miami, atlanta,
    dallas, houston, phoenix, san diego, detroit, orlando, las vegas, salt lake city, portland,
    washington, philadelphia, toronto, montreal, vancouver, mexico city, london, paris, madrid,
    rome, milan, berlin, munich, hamburg, vienna, zurich, geneva, amsterdam, brussels, copenhagen,
    stockholm, helsinki, dublin, athens, istanbul, cairo, nairobi, cape town, dubai, tel aviv,
    delhi, mumbai, bangkok, singapore, hong kong, tokyo, seoul, sydney, auckland, buenos aires,
    sao paulo, lima
    """),
    _split("""
    lisbon, oslo, prague, warsaw, budapest, lyon, porto, naples, st. louis, san antonio,
    kansas city, nashville, tampa, calgary, havana, bogota, santiago, casablanca, marrakesh, accra,
    johannesburg, doha, jakarta, kuala lumpur, manila, osaka, melbourne, perth, san juan, glasgow
    """),
)
AIRPORT = (
    _split("""
    heathrow, gatwick, kennedy, la guardia, newark, o'hare, midway, logan, dulles,
    charles de gaulle, orly, schiphol, kastrup, fiumicino, changi, narita, tegel, malpensa,
    love field
    """),
    _split("""
    stansted, barajas, sea tac, hartsfield, haneda, gardermoen, el prat, pudong, hobby airport,
    ben gurion
    """),
)
AIRLINE = (
    _split("""
    american airlines, delta, united, british airways, lufthansa, air france, iberia, klm, swiss,
    finnair, qantas, emirates, air canada, southwest, jetblue, ryanair, turkish airlines, alitalia,
    singapore airlines, cathay pacific, alaska airlines, norwegian
    """),
    _split("""
    qatar airways, aer lingus, japan airlines, easyjet, frontier, avianca, korean air, tap portugal,
    etihad, spirit
    """),
)
NAME = (
    _split("""
    anna smith, john miller, maria garcia, peter brown, laura jones, david wilson, sofia rossi,
    paul martin, emma taylor, james moore, nina weber, thomas clark, julia lewis, robert hall,
    clara young, michael king, elena popova, henry scott, ines costa, mark adams, mrs baker,
    mr cooper, miss turner, dr singh, sara lind, ahmed khan, lucy chen, omar haddad
    """),
    _split("""
    oliver reed, hannah fischer, carlos mendez, grace murphy, mr tanaka, dr okafor, mrs novak,
    victor hugo, yuki sato, irene blake, noah berg, priya patel
    """),
)
MEAL = (
    _split("""
    vegetarian, vegan, kosher, halal, gluten free, low salt, diabetic, children's, hindu,
    lactose free
    """),
    _split("low fat, nut free, seafood, fruit platter, jain, high fiber"),
)
BAG = (
    _split("""
    suitcases, skis, golf clubs, a bicycle, a surfboard, a guitar, a stroller, backpacks,
    a wheelchair, hiking boots, a camera bag, a violin
    """),
    _split("a snowboard, a cello, fishing rods, a tent, trunks, a drone, a hat box"),
)
TRANSPORT = (
    _split("""
    taxi, bus, train, rental car, limousine, subway, airport shuttle, express train, ferry,
    night bus
    """),
    _split("tram, minivan, bike, hotel van, water taxi, monorail"),
)
CABIN = (
    _split("economy, business class, first class, premium economy, coach, economy plus"),
    _split("economy class, business, comfort class"),
)
SEAT = (
    _split("window, aisle, middle, front row, exit row, bulkhead, back row, extra legroom"),
    _split("upper deck, wing row, last row"),
)
PERIOD = (
    _split("morning, afternoon, evening, night, early morning, late evening, late afternoon"),
    _split("mid morning, early afternoon, late night, early hours"),
)
NUMBER = _split("one, two, three, four, five, six, seven, eight, nine, ten")
WEEKDAY = _split("monday, tuesday, wednesday, thursday, friday, saturday, sunday")
MONTH = _split("""
    january, february, march, april, may, june, july, august, september, october, november, december
""")
DAY = _split("""
    first, second, third, fourth, fifth, sixth, seventh, eighth, ninth, tenth, eleventh, twelfth,
    fifteenth, eighteenth, twentieth, twenty first, twenty fourth, twenty ninth, thirtieth
""")
