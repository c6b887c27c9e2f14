//! What a version tells of the pace of releases.

/// Minimum of a later number of a version that tells of frequent releases.
const RAPID: u64 = 30;

/// Returns whether a version tells of releases every few days or weeks: its second or third number is 30
/// or more, as of botocore 1.40.43 and fastapi 0.118.0. (Of eight months of a Python image, such packages
/// changed in nine of ten, the others in three.)
pub(super) fn is_rapid(version: &[u8]) -> bool {
    let number = |part: &[u8]| {
        let digits = part.iter().take_while(|b| b.is_ascii_digit());
        digits.fold(0u64, |n, b| n.saturating_mul(10).saturating_add(u64::from(b - b'0')))
    };
    version.split(|b| *b == b'.').skip(1).take(2).any(|part| number(part) >= RAPID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_and_third_numbers_tell() {
        for version in ["1.40.43", "0.118.0", "2.3.30", "1.99999999999999999999999"] {
            assert!(is_rapid(version.as_bytes()), "{version}");
        }
        for version in ["2025.9", "46.0.2", "3.29", "1.2.3.99", "1.x40", "", "..."] {
            assert!(!is_rapid(version.as_bytes()), "{version}");
        }
    }
}
