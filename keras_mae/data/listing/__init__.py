"""What several sources share: which files are images, what folders say, numbers for labels."""
