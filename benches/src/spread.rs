//! Several rounds of one figure: the median, and how far they were apart.

use std::fmt;

/// A figure's median, least and most over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// Of the rounds' figures; not a number if there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: if figures.len() % 2 == 1 {
                at(middle)
            } else {
                f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
            },
            least: at(0),
            most: at(figures.len().wrapping_sub(1)),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (short(self.least), short(self.most));
        write!(f, "{} ({least}..{most})", short(self.median))
    }
}

/// Three digits or so.
pub fn short(figure: f64) -> String {
    match figure.abs() {
        _ if figure.is_nan() => "-".to_owned(),
        small if small < 0.1 => format!("{figure:.4}"),
        small if small < 10.0 => format!("{figure:.2}"),
        some if some < 100.0 => format!("{figure:.1}"),
        large if large < 1e4 => format!("{figure:.0}"),
        large if large < 1e6 => format!("{:.1} k", large / 1e3),
        large => format!("{:.1} M", large / 1e6),
    }
}

/// A time in the unit that fits.
pub fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.1} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let odd = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!(odd.to_string(), "2.00 (1.00..3.00)");
        assert!((Spread::of([4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < 1e-9);
        assert!(Spread::of([]).median.is_nan());
    }

    #[test]
    fn times_are_shown_in_the_unit_that_fits() {
        for (ns, expect) in [
            (12.34, "12.3 ns"),
            (1_500.0, "1.50 us"),
            (2.5e6, "2.50 ms"),
            (3e9, "3.00 s"),
        ] {
            assert_eq!(time(ns), expect);
        }
    }

    #[test]
    fn figures_are_short() {
        for (figure, expect) in [
            (0.008_76, "0.0088"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (1_234.0, "1234"),
            (36_120.0, "36.1 k"),
            (2_500_000.0, "2.5 M"),
        ] {
            assert_eq!(short(figure), expect);
        }
    }
}
