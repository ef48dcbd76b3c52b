//! A web page to its text: a small tokenizer after the HTML standard's (section 13.2.5) main states. Scripts, styles,
//! forms and the page's frame (navigation, footer, aside, menus of links) go, entities are resolved, blocks become lines.
//! It must not know the network, nor render anything.

use super::html_output::Output;
use crate::{Document, Kind};

/// The page's text, for [`Kind::Html`] only.
pub fn transform(document: &Document) -> Option<String> {
    (document.kind == Kind::Html).then(|| to_text(&document.text))
}

/// Elements whose content is no text of the page.
const SKIPPED: [&str; 15] = [
    "script", "style", "noscript", "template", "svg", "math", "iframe", "object", "nav", "footer", "aside",
    "form", "button", "select", "head",
];
/// Of them, those whose content is not markup: it ends at the first matching end tag.
const RAW: [&str; 4] = ["script", "style", "noscript", "iframe"];
/// The text of a page; never fails, as browsers never do: what is no tag is text.
pub fn to_text(page: &str) -> String {
    let mut output = Output::default();
    let mut rest = page;
    let mut skipping = None;
    while !rest.is_empty() {
        let Some(at) = rest.find('<') else {
            if skipping.is_none() {
                output.push_text(rest);
            }
            break;
        };
        if skipping.is_none() {
            output.push_text(&rest[..at]);
        }
        rest = &rest[at..];
        let Some((tag, after)) = Tag::parse(rest) else {
            if skipping.is_none() {
                output.push_text("<");
            }
            rest = &rest[1..];
            continue;
        };
        rest = after;
        skipping = tag.skipped_after(skipping);
        if skipping.is_none() {
            output.push_tag(&tag);
        } else if let Some(name) = RAW.iter().find(|name| tag.is(name) && tag.opens()) {
            rest = skip_raw(rest, name);
        }
    }
    output.finish()
}

/// A tag, comment or declaration; of the last two the name is empty.
pub(super) struct Tag<'a> {
    name: &'a str,
    pub is_end: bool,
    is_closed: bool,
}

impl<'a> Tag<'a> {
    /// Reads one from the start of `rest`, which begins with `<`; gives what follows it. None where it is text.
    fn parse(rest: &'a str) -> Option<(Self, &'a str)> {
        let nameless = Tag { name: "", is_end: false, is_closed: true };
        if let Some(comment) = rest.strip_prefix("<!--") {
            return Some((nameless, comment.find("-->").map_or("", |end| &comment[end + 3..])));
        }
        if rest.starts_with("<!") || rest.starts_with("<?") {
            return Some((nameless, rest.find('>').map_or("", |end| &rest[end + 1..])));
        }
        let is_end = rest.starts_with("</");
        let body = &rest[if is_end { 2 } else { 1 }..];
        if !body.starts_with(|letter: char| letter.is_ascii_alphabetic()) {
            return None;
        }
        let end = body.find(|letter: char| letter.is_ascii_whitespace() || matches!(letter, '>' | '/'));
        let name = &body[..end.unwrap_or(body.len())];
        let close = find_tag_end(&body[name.len()..]);
        let attributes = &body[name.len()..close.map_or(body.len(), |at| name.len() + at)];
        let is_closed = attributes.ends_with('/');
        Some((Tag { name, is_end, is_closed }, close.map_or("", |at| &body[name.len() + at + 1..])))
    }

    /// The skipped element that is open after this tag, and how deeply it is nested in its like.
    fn skipped_after(&self, before: Option<(&'static str, usize)>) -> Option<(&'static str, usize)> {
        match before {
            Some((name, depth)) if self.is(name) && self.is_end => (depth > 1).then(|| (name, depth - 1)),
            Some((name, depth)) if self.is(name) && self.opens() => Some((name, depth + 1)),
            // The head's end tag may be left out; the body ends it too.
            Some(("head", _)) if self.is("body") => None,
            Some(other) => Some(other),
            None => SKIPPED.iter().find(|name| self.is(name) && self.opens()).map(|name| (*name, 1)),
        }
    }

    fn opens(&self) -> bool {
        !self.is_end && !self.is_closed
    }

    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    pub fn is_one_of(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.is(name))
    }
}

/// The place of the `>` that ends a tag; one within quotes does not.
fn find_tag_end(attributes: &str) -> Option<usize> {
    let (mut quote, mut after_equals) = (None, false);
    for (at, byte) in attributes.bytes().enumerate() {
        match (quote, byte) {
            (Some(open), _) => quote = (byte != open).then_some(open),
            (None, b'"' | b'\'') if after_equals => quote = Some(byte),
            (None, b'>') => return Some(at),
            _ => {}
        }
        after_equals = byte == b'=' || (after_equals && byte.is_ascii_whitespace());
    }
    // An unclosed quote would swallow the rest of the page; the first `>` is the better guess.
    attributes.find('>')
}

/// What follows the end tag of a raw element.
fn skip_raw<'a>(rest: &'a str, name: &str) -> &'a str {
    let mut from = 0;
    while let Some(at) = rest[from..].find("</") {
        let tag = &rest[from + at + 2..];
        if tag.len() >= name.len() && tag.as_bytes()[..name.len()].eq_ignore_ascii_case(name.as_bytes()) {
            return &rest[from + at..];
        }
        from += at + 2;
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_become_text() {
        let cases = [
            ("<p>One</p><p>Two <b>bold</b> words</p>", "One\n\nTwo bold words"),
            ("<html><head><title>t</title><style>p{}</style></head><body>Body</body>", "Body"),
            ("<head><meta charset=utf-8><body>No end of head", "No end of head"),
            ("a<script>if (a < b) { x = \"</p>\"; }</script>b", "ab"),
            ("x<SCRIPT type='a'>1</Script >y", "xy"),
            ("<nav><ul><li>Home</li></ul><nav>in</nav>more</nav><main>Text</main>", "Text"),
            (
                "1 &lt; 2 &amp;&amp; 3 &gt; 2 &#8212; &#x4e2d;&#25991; &nbsp;&copy; &unknown; &",
                "1 < 2 && 3 > 2 — 中文 \u{a0}© &unknown; &",
            ),
            ("<ul><li>one<li>two</ul>after", "- one\n- two\n\nafter"),
            ("<ul><li><p>one</p></li></ul>", "- one"),
            ("<pre>\n  keep\n    this\n</pre>done", "  keep\n    this\n\ndone"),
            ("<a title=\"a > b\" href=x>link</a> 5 < 6 <3", "link 5 < 6 <3"),
            ("<!-- <p>no</p> --><!DOCTYPE html>yes<br>line", "yes\nline"),
            ("<table><tr><td>1<td>2</tr><tr><th>3</th></tr></table>", "1 2\n3"),
            ("<p>陶冶，是把原始文本<br/>变成模型。</p>\r\n", "陶冶，是把原始文本\n变成模型。"),
            ("unfinished <p attr=\"x", "unfinished"),
            (
                "<div>Menu</div><ul><li><a href=a>Home</a><li><a>News</a></li><li><a>Über uns</a><li><a>关于</a>\
                 <li><a>Contact</a></ul><p>The text has <a href=x>a link</a>.</p><ul><li><a>one</a></li></ul>",
                "Menu\n\nThe text has a link.\n\n- one",
            ),
            ("<svg/>after <img src=a.png>", "after"),
        ];
        for (page, expected) in cases {
            assert_eq!(to_text(page), expected, "{page}");
        }
    }

    #[test]
    fn hostile_pages_take_linear_time() {
        for piece in ["<", "<p", "</", "<a b='", "&", "&#", "<script>", "<!--", "<nav>"] {
            let page = piece.repeat(400_000 / piece.len());
            let started = std::time::Instant::now();
            to_text(&page);
            assert!(started.elapsed().as_secs() < 5, "{piece}");
        }
    }
}
