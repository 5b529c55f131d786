use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn amount(text: &str) -> Amount {
    Amount::parse(text).unwrap_or_else(|| panic!("{text:?} is not a quantity"))
}

/// Nano-units and canonical text, both as computed by the resource package of Kubernetes 1.36.
#[rstest]
#[case("0", 0, "0")]
#[case("0e50", 0, "0")]
#[case("-0", 0, "0")]
#[case("007", 7_000_000_000, "7")]
#[case("+1", 1_000_000_000, "1")]
#[case("5.", 5_000_000_000, "5")]
#[case(".5", 500_000_000, "500m")]
#[case("0.5", 500_000_000, "500m")]
#[case("-1.5", -1_500_000_000, "-1500m")]
#[case("1500", 1_500_000_000_000, "1500")]
#[case("8000", 8_000_000_000_000, "8k")]
#[case("250m", 250_000_000, "250m")]
#[case("0.1m", 100_000, "100u")]
#[case("3u", 3_000, "3u")]
#[case("7n", 7, "7n")]
#[case("2k", 2_000_000_000_000, "2k")]
#[case("3M", 3_000_000_000_000_000, "3M")]
#[case("4G", 4_000_000_000_000_000_000, "4G")]
#[case("5T", 5_000_000_000_000_000_000_000, "5T")]
#[case("6P", 6_000_000_000_000_000_000_000_000, "6P")]
#[case("1E", 1_000_000_000_000_000_000_000_000_000, "1E")]
#[case("1e3", 1_000_000_000_000, "1k")]
#[case("1E3", 1_000_000_000_000, "1k")]
#[case("1e+3", 1_000_000_000_000, "1k")]
#[case("1e-3", 1_000_000, "1m")]
#[case("1.25e2", 125_000_000_000, "125")]
#[case("12E-1", 1_200_000_000, "1200m")]
#[case("999999999999999999999n", 999_999_999_999_999_999_999, "999999999999999999999n")]
#[case("9223372036854775807", 9_223_372_036_854_775_807_000_000_000, "9223372036854775807")]
fn decimal_quantities(#[case] text: &str, #[case] nanos: i128, #[case] canonical: &str) {
    assert_eq!(Amount::parse(text), Some(Amount(nanos)));
    assert_eq!(Amount(nanos).to_string(), canonical);
}

#[rstest]
#[case("1Ki", 1 << 10, "1Ki")]
#[case("1000Ki", 1000 << 10, "1000Ki")]
#[case("1024Mi", 1 << 30, "1Gi")]
#[case("1.5Gi", 1536 << 20, "1536Mi")]
#[case("2Ti", 2 << 40, "2Ti")]
#[case("3Pi", 3 << 50, "3Pi")]
#[case("7Ei", 7 << 60, "7Ei")]
#[case("-2Mi", -2 << 20, "-2Mi")]
#[case("1536", 1536, "1536")]
#[case("1500", 1500, "1500")]
#[case("1000", 1000, "1k")]
#[case("3000000", 3_000_000, "3M")]
#[case("1536000", 1_536_000, "1500Ki")]
#[case("0Gi", 0, "0")]
#[case("512", 512, "512")]
fn binary_quantities(#[case] text: &str, #[case] units: i64, #[case] canonical: &str) {
    assert_eq!(Amount::parse(text), Some(Amount::units(units)));
    assert_eq!(Amount::units(units).to_binary(), canonical);
}

#[rstest]
#[case("0.1Ki", "102400m")]
#[case("1.1Ki", "1126400m")]
#[case("0.5", "500m")]
#[case("0.0000000001Ei", "115292150460684698n")]
fn fractions_of_bytes_are_decimal(#[case] text: &str, #[case] canonical: &str) {
    assert_eq!(amount(text).to_binary(), canonical);
}

#[rstest]
#[case("0.0000000001", 1)]
#[case("-0.0000000001", -1)]
#[case("0.9999999999", 1_000_000_000)]
#[case("1.0000000011", 1_000_000_002)]
#[case("1.0000000010000000000000000000000000000000000000000000000001", 1_000_000_002)]
#[case("1e-12", 1)]
#[case("1e-9223372036854775808", 1)]
#[case("0.000000000000000000000000000000000000000000001Ei", 1)]
#[case("0.0000000009765625Ki", 1_000)]
#[case("0.00000000097656250000000000000000000000000000001Ki", 1_001)]
fn excess_precision_is_rounded_away_from_zero(#[case] text: &str, #[case] nanos: i128) {
    assert_eq!(Amount::parse(text), Some(Amount(nanos)));
}

#[rstest]
#[case("8Ei")]
#[case("9223372036854775807.5")]
#[case("9223372036854775808")]
#[case("9999999999999999999999999999999999999999999999999999999999")]
#[case("9999999999999999999Ei")]
#[case("10E")]
#[case("1e19")]
#[case("1e9223372036854775807")]
fn large_quantities_saturate(#[case] text: &str) {
    assert_eq!(amount(text), Amount::units(i64::MAX));
    assert_eq!(amount(&format!("-{text}")), Amount::ZERO - Amount::units(i64::MAX));
}

#[rstest]
#[case("")]
#[case("m")]
#[case("-")]
#[case(".")]
#[case(".Ki")]
#[case("e3")]
#[case("1e")]
#[case("1e+")]
#[case("1e1.5")]
#[case("1e1e1")]
#[case("1e99999999999999999999")]
#[case("1Ei3")]
#[case("1m3")]
#[case("1K")]
#[case("1ki")]
#[case("1mi")]
#[case("1 ")]
#[case(" 1")]
#[case("1 Gi")]
#[case("--1")]
#[case("+-1")]
#[case("1.5.2")]
#[case("1,5")]
#[case("0x10")]
#[case("\u{661}")]
#[case("1Gib")]
#[case("NaN")]
fn invalid_quantities(#[case] text: &str) {
    assert_eq!(Amount::parse(text), None);
}

#[test]
fn arithmetic_saturates() {
    let most = Amount::units(i64::MAX);
    let least = Amount::units(i64::MIN);
    assert_eq!(most + most, most);
    assert_eq!(least + least, least);
    assert_eq!(least - most, least);
    assert_eq!(Amount::ZERO - most, least);
    assert_eq!([most, most, Amount::units(-1)].iter().sum::<Amount>(), Amount::units(i64::MAX - 1));
    assert_eq!((most - Amount::millis(1)).round_up(), most);
    assert_eq!(least.split(1, Amount::units(7)), least);
}

#[test]
fn arithmetic() {
    let mut sum = Amount::units(2) - Amount::units(3);
    assert_eq!(sum, Amount::units(-1));
    sum += Amount::millis(1500);
    assert_eq!(sum, Amount::millis(500));
    sum -= Amount::millis(100);
    assert_eq!(sum, Amount::millis(400));
    assert_eq!(Amount::units(2).saturating_sub(Amount::units(3)), Amount::ZERO);
    assert_eq!(Amount::units(3).saturating_sub(Amount::units(2)), Amount::units(1));
    assert_eq!([Amount::units(1), Amount::millis(1)].into_iter().sum::<Amount>(), Amount::millis(1001));
    assert_eq!(Amount::millis(1).max(Amount::units(-1)), Amount::millis(1));
    assert_eq!(Amount::default(), Amount::ZERO);
}

#[rstest]
#[case("1", "1")]
#[case("0", "0")]
#[case("100m", "1")]
#[case("1n", "1")]
#[case("1500m", "2")]
#[case("-1500m", "-2")]
#[case("-1n", "-1")]
fn rounding_up(#[case] text: &str, #[case] rounded: &str) {
    assert_eq!(amount(text).round_up(), amount(rounded));
}

#[rstest]
#[case("1", 3, "10m", "330m")]
#[case("1", 4, "10m", "250m")]
#[case("1Gi", 3, "1Mi", "341Mi")]
#[case("10", 3, "1", "3")]
#[case("2", 3, "1", "0")]
#[case("0", 3, "1", "0")]
#[case("5", 1, "1", "5")]
#[case("5", 0, "1", "0")]
#[case("1", 3, "0", "333333333n")]
#[case("-1", 3, "10m", "-340m")]
fn splitting(#[case] text: &str, #[case] parts: usize, #[case] grain: &str, #[case] share: &str) {
    assert_eq!(amount(text).split(parts, amount(grain)), amount(share));
}

#[test]
fn unlimited_is_safe_in_thousandths() {
    assert!(amount("9223372036854775807m") > Amount::UNLIMITED);
    assert_eq!(Amount::UNLIMITED.text_for("pods"), "9007199254740992");
    assert_eq!(Amount::UNLIMITED.text_for("requests.cpu"), "9007199254740992");
    assert_eq!(Amount::UNLIMITED.text_for("requests.storage"), "8Pi");
}

#[rstest]
#[case("cpu", "1073741824", "10m")]
#[case("requests.cpu", "1073741824", "10m")]
#[case("limits.cpu", "1073741824", "10m")]
#[case("memory", "1Gi", "1Mi")]
#[case("requests.memory", "1Gi", "1Mi")]
#[case("limits.memory", "1Gi", "1Mi")]
#[case("storage", "1Gi", "1Mi")]
#[case("requests.storage", "1Gi", "1Mi")]
#[case("limits.ephemeral-storage", "1Gi", "1Mi")]
#[case("gold.storageclass.storage.k8s.io/requests.storage", "1Gi", "1Mi")]
#[case("gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1073741824", "1")]
#[case("hugepages-2Mi", "1Gi", "2Mi")]
#[case("requests.hugepages-1Gi", "1Gi", "1Gi")]
#[case("hugepages-", "1Gi", "1Mi")]
#[case("hugepages-0", "1Gi", "1Mi")]
#[case("pods", "1073741824", "1")]
#[case("count/secrets", "1073741824", "1")]
#[case("services.nodeports", "1073741824", "1")]
#[case("requests.example.com/memory", "1073741824", "1")]
fn texts_and_grains_by_name(#[case] name: &str, #[case] text: &str, #[case] grain: &str) {
    assert_eq!(Amount::units(1 << 30).text_for(name), text);
    assert_eq!(grain_of(name), amount(grain));
}

#[test]
fn maps_of_quantities() {
    let quantity = |name: &str, text: &str| (name.to_owned(), Quantity(text.to_owned()));
    let quantities = [quantity("cpu", "0.5"), quantity("memory", "1024Mi"), quantity("pods", "many")].into();
    let mut amounts = read(&quantities);
    assert_eq!(
        amounts,
        Amounts::from([("cpu".to_owned(), Amount::millis(500)), ("memory".to_owned(), Amount::units(1 << 30))])
    );
    assert_eq!(write(&amounts), [quantity("cpu", "500m"), quantity("memory", "1Gi")].into());

    add_all(&mut amounts, &[("cpu".to_owned(), Amount::units(1)), ("pods".to_owned(), Amount::units(2))].into());
    let sums = [quantity("cpu", "1500m"), quantity("memory", "1Gi"), quantity("pods", "2")];
    assert_eq!(write(&amounts), sums.into());
}

fn any_amount() -> impl Strategy<Value = Amount> {
    // All magnitudes equally often, and round numbers as often as others.
    let round = prop::sample::select(vec![1, 1_000, 1_000_000, UNIT, UNIT << 10, UNIT << 20, UNIT * 1_000]);
    (any::<i64>(), 0..64_u32, round)
        .prop_map(|(number, bits, round)| Amount::bounded(i128::from(number >> bits) * round))
}

proptest! {
    #[test]
    fn arbitrary_text_does_not_panic(
        text in any::<String>(),
        close in "[-+]?[0-9.]{0,60}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,22}",
    ) {
        let _ = Amount::parse(&text);
        if let Some(amount) = Amount::parse(&close) {
            prop_assert!(amount.0.abs() <= BOUND);
            prop_assert_eq!(amount.0.signum() * if close.starts_with('-') { -1 } else { 1 }, amount.0.abs().signum());
        }
    }

    #[test]
    fn well_formed_texts_are_read(
        number in r"[-+]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})",
        suffix in "([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,18})?",
    ) {
        prop_assert!(Amount::parse(&(number + &suffix)).is_some());
    }

    #[test]
    fn texts_are_read_back(amount in any_amount()) {
        prop_assert_eq!(Amount::parse(&amount.to_string()), Some(amount));
        prop_assert_eq!(Amount::parse(&amount.to_binary()), Some(amount));
    }

    #[test]
    fn texts_are_canonical(amount in any_amount()) {
        for text in [amount.to_string(), amount.to_binary()] {
            let mantissa = text.trim_end_matches(char::is_alphabetic);
            prop_assert!(mantissa.trim_start_matches('-').chars().all(|digit| digit.is_ascii_digit()), "{}", text);
            // A decimal mantissa that ends in three zeros could use the next suffix.
            prop_assert!(text.ends_with('i') || !mantissa.ends_with("000"), "{}", text);
            prop_assert!(!text.ends_with('i') || amount.0.abs() >= 1024 * UNIT, "{}", text);
        }
    }

    #[test]
    fn shares_fit_in_whole_grains(amount in any_amount(), parts in 1..1000_usize, grain in any_amount()) {
        let share = amount.split(parts, grain);
        let count = i128::try_from(parts).expect("it is small");
        if amount >= Amount::ZERO {
            prop_assert!(share >= Amount::ZERO && share.0 * count <= amount.0);
            if grain > Amount::ZERO {
                prop_assert_eq!(share.0 % grain.0, 0);
                prop_assert!((share.0 + grain.0) * count > amount.0);
            }
        }
    }

    #[test]
    fn arithmetic_never_overflows(amounts in prop::collection::vec(any_amount(), 0..20)) {
        let sum: Amount = amounts.iter().sum();
        let rest = amounts.iter().fold(sum, |rest, amount| rest - *amount);
        prop_assert!(sum.0.abs() <= BOUND && rest.0.abs() <= BOUND && rest.round_up().0.abs() <= BOUND);
    }
}
