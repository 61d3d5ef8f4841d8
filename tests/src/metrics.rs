//! Reads the text that `/metrics` serves.

/// Adds up the samples of a metric whose labels hold the text; zero if there is none.
pub fn sum(text: &str, name: &str, label: &str) -> f64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn samples_with_the_label_are_added_up() {
        let text = "# TYPE refused counter\nrefused{code=\"a\",p=\"x\"} 2\nrefused{code=\"a\",p=\"y\"} 3\nrefused{code=\"b\"} 7\nrefused_all 9\n";
        assert!((super::sum(text, "refused", "code=\"a\"") - 5.0).abs() < f64::EPSILON);
        assert!((super::sum(text, "refused", "") - 12.0).abs() < f64::EPSILON);
    }
}
