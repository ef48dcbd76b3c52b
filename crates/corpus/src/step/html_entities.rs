//! HTML's character references: the numeric ones, and the named ones that pages use.
//! It must not know tags.

/// The longest name that is looked up.
const NAME_BYTES_MAX: usize = 10;

/// Decodes the reference at the start of `rest`, which begins with `&`, into `text`; gives what follows it.
/// What is no reference stays as it is.
pub fn push_entity<'a>(text: &mut String, rest: &'a str) -> &'a str {
    let body = &rest[1..];
    let end = body.bytes().take(NAME_BYTES_MAX).position(|byte| byte == b';');
    if let Some(end) = end.filter(|&end| end > 0)
        && let Some(character) = decode(&body[..end])
    {
        text.push(character);
        return &body[end + 1..];
    }
    text.push('&');
    body
}

fn decode(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code).filter(|&character| character != '\0');
    }
    NAMED.iter().find(|(known, _)| *known == name).map(|(_, character)| *character)
}

/// From the HTML standard's table of named character references (section 13.5).
const NAMED: [(&str, char); 60] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", '\u{A0}'),
    ("copy", '©'),
    ("reg", '®'),
    ("trade", '™'),
    ("hellip", '…'),
    ("mdash", '—'),
    ("ndash", '–'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("laquo", '«'),
    ("raquo", '»'),
    ("bull", '•'),
    ("middot", '·'),
    ("sect", '§'),
    ("para", '¶'),
    ("deg", '°'),
    ("plusmn", '±'),
    ("times", '×'),
    ("divide", '÷'),
    ("frac12", '½'),
    ("sup2", '²'),
    ("micro", 'µ'),
    ("larr", '←'),
    ("rarr", '→'),
    ("uarr", '↑'),
    ("darr", '↓'),
    ("le", '≤'),
    ("ge", '≥'),
    ("ne", '≠'),
    ("minus", '−'),
    ("infin", '∞'),
    ("sum", '∑'),
    ("radic", '√'),
    ("asymp", '≈'),
    ("euro", '€'),
    ("pound", '£'),
    ("yen", '¥'),
    ("cent", '¢'),
    ("eacute", 'é'),
    ("egrave", 'è'),
    ("ecirc", 'ê'),
    ("agrave", 'à'),
    ("aacute", 'á'),
    ("acirc", 'â'),
    ("auml", 'ä'),
    ("ouml", 'ö'),
    ("uuml", 'ü'),
    ("Auml", 'Ä'),
    ("Ouml", 'Ö'),
    ("Uuml", 'Ü'),
    ("szlig", 'ß'),
    ("ccedil", 'ç'),
    ("ntilde", 'ñ'),
];
