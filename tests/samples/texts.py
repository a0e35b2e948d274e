# ruff: noqa: RUF001 (Chinese punctuation)
"""What the sample documents say. People and companies are invented."""

from __future__ import annotations

#: Name, quantity, price of one in pence.
INVOICE_ITEMS = [
    ("Order pads, carbonless, A6", 40, 185),
    ("Chalk markers, white, box of 8", 6, 1240),
    ("Receipt rolls 80 mm, case of 20", 3, 2795),
    ("Loyalty cards, printed both sides", 1500, 9),
    ("Envelopes C5, recycled, pack of 50", 12, 460),
    ("Menu holders, oak, A5", 24, 715),
    ("Delivery within Ostbury", 1, 850),
]

#: A line across the receipt.
RULE = "-"
#: A bar stands between what is on the left and what is on the right.
RECEIPT = [
    "BLUEPINE COFFEE HOUSE",
    "2 Quayside, Ostbury",
    "Tel 01552 604 118",
    "",
    "Receipt 0093127|22/03/2025",
    "Served by Ines|08:46",
    RULE,
    "2 Flat white|7.20",
    "1 Earl Grey, pot|3.10",
    "1 Almond croissant|3.45",
    "3 Cardamom bun|8.85",
    "1 Orange juice 330 ml|2.90",
    RULE,
    "SUBTOTAL|25.50",
    "Loyalty discount 10%|-2.55",
    "TOTAL GBP|22.95",
    "",
    "Card ending 4406|22.95",
    "Auth code 71KX09|APPROVED",
    "",
    "Thank you, see you soon!",
    "www.bluepine.example",
]

NOTES_ZH = [
    "日期：2025年3月18日  地点：三号实验室",
    "参加人员：林晓雨、周建国、陈思远",
    "今天我们测试了新型水质传感器。",
    "第一组数据：温度21.5度，酸碱度7.3。",
    "第二组数据：温度24.0度，酸碱度7.1。",
    "设备连续运行六小时，没有出现故障。",
    "电池剩余电量为百分之八十二。",
    "外壳的防水胶条需要重新设计。",
    "下一步：更换胶条，并在室外测试一周。",
    "负责人：周建国，电话 010-5550-2718",
]

SUMMARY = [
    "This report describes the first year of the Skerry Sound pilot, in which",
    "two tidal turbines supplied power to the island of Hallan. Between April",
    "2024 and March 2025 the turbines produced 3,482 megawatt hours, which",
    "is 94% of what the design study had promised. The island's diesel station",
    "ran for 611 hours, compared with 5,340 hours in the year before.",
    "",
    "Two outages account for most of the shortfall. A damaged cable joint",
    "stopped the northern turbine for nineteen days in November, and a storm",
    "in January closed the harbour that the maintenance boat depends on.",
    "",
    "We recommend that a third turbine be ordered before September 2025,",
    "and that spare cable joints be kept on the island from now on.",
]

CONTENTS = [
    "1 Summary",
    "2 Findings",
    "3 Summary in Chinese",
    "Appendix A: Letter of the island council",
    "Appendix B: Minutes of the partner meeting",
]

#: The first half is the left column.
FINDINGS = [
    "Output followed the tide tables",
    "closely. At spring tides both",
    "turbines reached their rated power",
    "of 400 kW for more than two hours",
    "in each cycle; at neap tides they",
    "delivered about a quarter of that.",
    "",
    "The battery bridged slack water on",
    "all but six days. Its capacity fell",
    "by 1.8% over the year, less than",
    "the 3% that its maker allows.",
    "",
    "Divers inspected the blades in May",
    "and October. Growth of barnacles",
    "was light and had no measurable",
    "effect on efficiency.",
    "Noise was measured at four places",
    "around the sound. At 200 metres it",
    "stayed below 105 dB, the level of a",
    "small fishing boat. Porpoises were",
    "seen as often as in earlier years.",
    "",
    "Islanders paid 17.4 pence for each",
    "kilowatt hour, down from 28.9.",
    "A survey in February found that",
    "83% of households would welcome",
    "a third turbine, 9% had no opinion",
    "and 8% were against it.",
    "",
    "The pilot created four permanent",
    "jobs, three of them filled by people",
    "who live on Hallan.",
]

SUMMARY_ZH = [
    "本报告介绍了潮汐发电试点项目第一年的运行情况。",
    "两台水轮机在一年内共发电三千四百八十二兆瓦时，",
    "达到设计目标的百分之九十四。",
    "岛上柴油电站的运行时间从5340小时降到611小时。",
    "十一月的电缆故障使北侧机组停机十九天，",
    "一月的风暴使维修船无法出港。",
    "居民电价由每度28.9便士降至17.4便士。",
    "调查显示，百分之八十三的家庭支持建设第三台机组。",
    "我们建议在2025年9月之前订购新的机组，",
    "并在岛上储备电缆接头等关键备件。",
]

LETTER = [
    "Hallan Island Council",
    "The Old Schoolhouse, Hallan",
    "",
    "3 February 2025",
    "",
    "Dear Ms Thorne,",
    "",
    "At its meeting on 30 January the council discussed your proposal for",
    "a third turbine in the sound. Nineteen islanders attended, and most of",
    "them spoke in favour.",
    "",
    "Three concerns were raised. The landing stage at Norwick is too weak",
    "for the new crane. The cable must not cross the mussel beds. And the",
    "school asks that no piling be done during the examinations in June.",
    "",
    "If these points can be settled, the council will support your application.",
    "We would be glad to show you the landing stage on any weekday before",
    "noon, when the tide is low.",
    "",
    "Yours sincerely,",
    "",
    "Aileen Drever",
    "Clerk to the Council",
]

MINUTES_ZH = [
    "时间：2025年2月12日上午九点半",
    "主持：何文静",
    "一、讨论第三台机组的选址方案。",
    "二、确认海底电缆避开贻贝养殖区。",
    "三、码头加固工程预算为四十二万元。",
    "四、学校考试期间暂停打桩作业。",
    "会议决定于三月五日提交正式申请。",
]

FAX = [
    [
        "FACSIMILE TRANSMISSION",
        "",
        "To:    Corvane Marine Supplies",
        "From:  Lumen Tidal Energy, Workshop",
        "Date:  9 December 2024",
        "Pages: 2",
        "",
        "Subject: Spare parts for turbine north",
        "",
        "Please quote for the parts on the next page,",
        "delivered to Norwick pier before 20 December.",
        "Our crane lifts 1,200 kg at most, so any",
        "heavier crate must be split.",
        "",
        "Questions: J. Petrov, extension 318",
    ],
    [
        "PARTS LIST",
        "",
        "1. Cable joint, 11 kV, wet-mate     4 pcs",
        "2. Seal kit, main shaft, type R7    2 sets",
        "3. Pitch bearing, 340 mm            1 pc",
        "4. Anode, zinc, 15 kg              12 pcs",
        "5. Grease, biodegradable, 18 l      3 pails",
        "",
        "Replacement parts must carry the maker's",
        "certificate. Items 1 and 2 are urgent.",
        "",
        "End of transmission",
    ],
]
