//! Links in Markdown files lead to files that exist.
//!
//! It must not reach for the network: only links within the repository are followed.

use super::Fault;

/// Checks the links of one file; `exists` tells whether a path from the workspace's root is there.
pub fn check(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Fault> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut faults = Vec::new();
    let mut is_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        for target in targets(line) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty()
                && !file.contains(':')
                && !join(folder, file).is_some_and(|place| exists(&place))
            {
                faults.push(Fault::new(path, number + 1, "links", format!("{target} leads nowhere")));
            }
        }
    }
    faults
}

/// The targets of a line's inline links, `[text](target)`, code spans left out.
fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for text in line.split('`').step_by(2) {
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            found.push(target.trim_matches(['<', '>']));
        }
    }
    // A link's text may itself be a code span: `](target)` then starts a part of its own, which the split keeps whole.
    found
}

/// `target` seen from `folder`, as a path from the root; none if it leaves the root.
fn join(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_within_the_repository_are_followed() {
        let exists = |path: &str| ["README.md", "docs/LOG.md"].contains(&path);
        for (text, count) in [
            ("see [log](LOG.md) and [readme](../README.md#speed)\n", 0),
            ("see [`log`](LOG.md), [`gone`](GONE.md)\n", 1),
            ("[a](gone.md) [b](also/gone.md)\n", 2),
            ("[web](https://example.org/x.md) [mail](mailto:a@b.c) [here](#part)\n", 0),
            ("```\n[a](gone.md)\n```\n`[a](gone.md)`\n", 0),
            ("[out](../../other.md)\n", 1),
        ] {
            assert_eq!(check("docs/A.md", text, exists).len(), count, "{text}");
        }
    }
}
