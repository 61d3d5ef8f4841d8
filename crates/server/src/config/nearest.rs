//! The known name that a mistyped one was probably meant to be.

/// The nearest of the names, if it is near enough to be worth a hint.
///
/// A name whose last part was meant (`listen` for `http.listen`) counts as near.
pub fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    // Four in ten characters may be wrong; beyond that a guess misleads.
    let far = text.len() * 2 / 5 + 1;
    names
        .map(|name| (cost(&text, &name.to_ascii_lowercase()), name))
        .filter(|(cost, _)| *cost <= far)
        .min_by_key(|(cost, _)| *cost)
        .map(|(_, name)| name)
}

fn cost(text: &str, name: &str) -> usize {
    let whole = distance(text, name);
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    if last(text) == last(name) {
        return whole.min(1);
    }
    whole
}

/// Insertions, removals, replacements and swaps of neighbours that turn one text into the other.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let width = right.len() + 1;
    let mut before: Vec<usize> = vec![0; width];
    let mut above: Vec<usize> = (0..width).collect();
    for (i, l) in left.iter().enumerate() {
        let mut row = vec![i + 1; width];
        for (j, r) in right.iter().enumerate() {
            let replaced = above[j] + usize::from(l != r);
            row[j + 1] = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            let swapped = i > 0 && j > 0 && *l == right[j - 1] && left[i - 1] == *r;
            if swapped {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[width - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits_and_swaps() {
        for (left, right, expect) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("listen", "listen", 0),
            ("lisen", "listen", 1),
            ("lsiten", "listen", 1),
            ("durabilty", "durability", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(left, right), expect, "{left} {right}");
        }
    }

    #[test]
    fn nearest_name_is_found_and_a_wild_guess_is_not_made() {
        let names = [
            "http.listen",
            "http.cors_origins",
            "log.dir",
            "log.durability",
        ];
        for (text, expect) in [
            ("http.lisen", Some("http.listen")),
            ("HTTP.LISTEN", Some("http.listen")),
            ("log.durabilty", Some("log.durability")),
            ("listen", Some("http.listen")),
            ("server.listen", Some("http.listen")),
            ("completely.different", None),
        ] {
            assert_eq!(nearest(text, names.into_iter()), expect, "{text}");
        }
    }
}
