"""The promises under failure, proved on real processes: what fails, is lost or is done twice."""
